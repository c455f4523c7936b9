"""Numbers of windows: every block by hand, nothing from behind the history, names and levels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import SafetensorError

from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.config import BlockName, ExperimentConfig, FeaturesConfig
from softgrpo.data.windows import targets_of
from softgrpo.policy.blocks.base import BASE
from softgrpo.policy.blocks.block import CHUNK, Known, UserVectors
from softgrpo.policy.blocks.record import RECORD_BLOCK
from softgrpo.policy.features import Features
from softgrpo.policy.numbers import BLOCKS, WindowNumbers, load_numbers, name_and_compute, write_numbers
from softgrpo.stages.hiding import hidden_worlds
from tests.softgrpo.common.test_scratch import lies_in_a_file
from tests.softgrpo.data.cases import corpus_of, windows_of
from tests.support.whole import make_features, save_numbers, window_numbers

DAY = 86_400.0
EVERY = FeaturesConfig(content=True, shape=True, agreement=True, popularity=True, pace=True, user_vector=True)
EMBEDDINGS = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 0], [0.8, 0.6], [-1, 0], [0, -1]], dtype=np.float32)
"""Item 3 has no text."""


def lists_of(*items: list[list[int]], scores: list[list[list[float]]] | None = None) -> CandidateLists:
    """Returns lists of depth 4 from the items of each window and recaller; the scores descend from 4."""
    recallers = len(items[0])
    padded = np.array([[row + [-1] * (4 - len(row)) for row in window] for window in items], dtype=np.int32)
    values = np.where(padded >= 0, np.array([4, 3, 2, 1], dtype=np.float32), np.nan).astype(np.float32)
    for window, rows in enumerate(scores or []):
        for recaller, row in enumerate(rows):
            values[window, recaller, : len(row)] = row
    return CandidateLists(tuple("ABC"[:recallers]), padded, values)


def known_of(
    corpus: Corpus,
    windows: Windows,
    lists: CandidateLists,
    embeddings: NDArray[np.float32] | None = None,
    vectors: UserVectors | None = None,
) -> Known:
    features = make_features(lists, windows, targets_of(corpus, windows), 3)
    return Known(corpus, windows, lists, features, embeddings, vectors)


def last_and_user(corpus: Corpus, windows: Windows) -> dict[str, NDArray[np.float32]]:
    """Stands for recallers whose vectors are (last item, length of the history) and (user)."""
    last = corpus.item[corpus.offsets[windows.user] + windows.start - 1]
    return {
        "A": np.stack([last, windows.start], axis=1).astype(np.float32),
        "B": windows.user[:, None].astype(np.float32),
    }


def computed(name: BlockName, known: Known) -> dict[str, list[object]]:
    return {number: values.tolist() for number, values in BLOCKS[name].compute(known).items()}


def test_the_basic_numbers() -> None:
    windows = windows_of([(0, Part.POLICY, 3, 5), (0, Part.VALID, 5, 6)], [3])
    nan, inf = math.nan, math.inf
    features = Features(
        ndcg=np.full((2, 2), 9.0, np.float32),
        best_rank=np.full((2, 2), 9.0, np.float32),
        strength=np.array([[0.1, 0.2], [0.3, nan]], np.float32),
        peak=np.array([[0.5, 0.6], [0.7, 0.8]], np.float32),
        overlap=np.array([[0.0, 1.0], [0.25, 0.5]], np.float32),
        track_ndcg=np.array([[nan, nan], [0.5, 0.0]], np.float32),
        track_rank=np.array([[nan, nan], [2.0, inf]], np.float32),
        track_count=np.array([0.0, 1.0], np.float32),
    )
    known = Known(corpus_of([[0, 1, 2, 3, 4, 5]]), windows, lists_of([[1], [2]], [[1], [2]]), features)
    off = FeaturesConfig(content=False, shape=False, agreement=False, popularity=False, pace=False, user_vector=False)
    names, values = name_and_compute(known, off)
    expected = [
        [0.1, 0.2, 0.5, 0.6, 0.0, 1.0, 0, 0, 0, 0, math.log(4), 0, 0],
        [0.3, 0, 0.7, 0.8, 0.25, 0.5, 0.5, 0, 0.5, 0, math.log(6), math.log(2), 1],
    ]
    assert values == pytest.approx(np.array(expected), abs=1e-6)
    assert names[:3] == ("A: score strength", "B: score strength", "A: lead of the first")
    assert names[10:] == ("history length", "windows in the record", "has a record")
    short = name_and_compute(known, off.model_copy(update={"record": "off"}))
    assert short[0] == names[:6] and np.array_equal(short[1], values[:, :6])


def test_content() -> None:
    """The last item is (0, 1); the profile (0, 1) + 0.7 (1, 0), so (0.7, 1) / sqrt(1.49). Item 3 has no text, and C is empty."""
    known = known_of(
        corpus_of([[0, 1, 6]]),
        windows_of([(0, Part.POLICY, 2, 3)], [1]),
        lists_of([[2, 4, 3], [5], []]),
        EMBEDDINGS,
    )
    length = math.sqrt(1.49)
    two, four, five = (0.7 * 0.6 + 0.8) / length, (0.7 * 0.8 + 0.6) / length, -0.7 / length
    expected = {
        "text of first like the last item": [0.8, 0, 0],
        "text of first like the profile": [two, five, 0],
        "text of mean of 10 like the last item": [(0.8 + 0.6) / 3, 0, 0],
        "text of mean of 10 like the profile": [(two + four) / 3, five, 0],
        "text of best of 10 like the last item": [0.8, 0, 0],
        "text of best of 10 like the profile": [two, five, 0],
    }
    found = BLOCKS["content"].compute(known)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name][0] == pytest.approx(values, abs=1e-6), name


def test_a_history_without_texts_matches_nothing() -> None:
    known = known_of(corpus_of([[3, 0]]), windows_of([(0, Part.POLICY, 1, 2)], [1]), lists_of([[2], [4]]), EMBEDDINGS)
    assert all(not values.any() for values in BLOCKS["content"].compute(known).values())


def test_shape() -> None:
    """A: 4, 2, 0, with mean 2 and variance 8 / 3. B: one score. C: the same ones, ten times as large."""
    scores = [[[4.0, 2.0, 0.0], [5.0], [40.0, 20.0, 0.0]]]
    lists = lists_of([[1, 2, 3], [1], [4, 5, 6]], scores=scores)
    found = computed("shape", known_of(corpus_of([[0, 1, 6]]), windows_of([(0, Part.POLICY, 2, 3)], [1]), lists))
    spread = math.sqrt(8 / 3)
    odds = [1, math.exp(-2 / spread), math.exp(-4 / spread)]
    entropy = -sum(odd / sum(odds) * math.log(odd / sum(odds)) for odd in odds) / math.log(3)
    expected = {
        "first score": [4, 5, 40],
        "lead over the second": [2, 0, 20],
        "lead over place 10": [4, 0, 40],  # a shorter list ends before
        "mean score": [2, 5, 20],
        "spread of scores": [spread, 0, 10 * spread],
        "entropy": [entropy, 0, entropy],
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name][0] == pytest.approx(values, rel=1e-5), name


def test_equal_scores_leave_the_most_doubt() -> None:
    lists = lists_of([[1, 2, 3], []], scores=[[[0.1, 0.1, 0.1], []]])
    found = computed("shape", known_of(corpus_of([[0, 1, 6]]), windows_of([(0, Part.POLICY, 2, 3)], [1]), lists))
    assert found["entropy"][0] == pytest.approx([1, 0])


def test_agreement() -> None:
    """B ranks A's 1 and 3 at 2 and 1; A ranks B's 3 and 1 at 3 and 1; C has nothing to agree with. Two others each."""
    lists = lists_of([[1, 2, 3, 4], [3, 1, 9], []])
    known = known_of(corpus_of([[0, 5, 9]]), windows_of([(0, Part.POLICY, 2, 3)], [1]), lists)
    expected = [(1 / 2 + 1) / 3 / 2, (1 / 3 + 1) / 3 / 2, 0]
    assert computed("agreement", known)["rank of its first 3 elsewhere"][0] == pytest.approx(expected)


def test_popularity() -> None:
    """In the training parts item 0 occurs twice and item 1 once; the rest lies behind them."""
    corpus = corpus_of([[0, 1, 2, 3], [0, 4]])
    known = known_of(corpus, windows_of([(0, Part.POLICY, 3, 4)], [2, 1]), lists_of([[0, 4], []]))
    usual = (math.log(3) + math.log(2)) / 3  # of items 2, 1 and 0
    expected = {
        "popularity of the first": [math.log(3), 0],
        "popularity of 10": [math.log(3) / 2, 0],
        "popularity above the history's": [math.log(3) / 2 - usual, 0],
        "popularity of the history": usual,
        "popularity of the last item": 0,
    }
    found = computed("popularity", known)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name][0] == pytest.approx(values, abs=1e-6), name


@pytest.mark.parametrize(("begin", "unit"), [(1e9, DAY), (0.0, 1.0)])
def test_pace(begin: float, unit: float) -> None:
    """Items after 0, 1 and 4 days, or years: pauses of 3 and 1, whose median is 2. One item has no pause."""
    times = [begin + unit * after for after in (0, 1, 4, 10)]
    windows = windows_of([(0, Part.POLICY, 1, 2), (0, Part.TEST, 3, 4)], [1])
    found = computed("pace", known_of(corpus_of([[0, 1, 2, 3]], [times]), windows, lists_of([[4], [5]], [[4], [5]])))
    expected = {
        "length of the history in time": [0, math.log(5)],
        "last pause": [0, math.log(4)],
        "usual pause": [0, math.log(3)],
        "has a pause": [0, 1],
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name


def test_no_pace_without_times() -> None:
    known = known_of(corpus_of([[0, 1, 2]]), windows_of([(0, Part.POLICY, 2, 3)], [1]), lists_of([[4], [5]]))
    assert all(values == [0] for values in computed("pace", known).values())


# ---------------------------------------------------------------- nothing from behind the history


def pool(users: int, seed: int = 5) -> Known:
    """Returns users of 3 to 12 items each with three windows, short lists of two recallers and embeddings."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 13, users)
    corpus = corpus_of(
        [rng.permutation(30)[:length].tolist() for length in lengths],
        [np.sort(1e9 + rng.random(length) * 1e7).tolist() for length in lengths],
    )
    parts = (Part.POLICY, Part.VALID, Part.TEST)
    rows = [
        (user, part, n - 3 + place, n - 2 + place) for user, n in enumerate(lengths) for place, part in enumerate(parts)
    ]
    windows = windows_of(rows, (lengths - 4).tolist())
    items = np.stack([rng.permutation(30)[:12] for _ in range(2 * len(rows))]).reshape(-1, 2, 12).astype(np.int32)
    scores = -np.sort(-rng.random(items.shape).astype(np.float32), axis=2)
    items[:, 1, 9:], scores[:, 1, 9:] = -1, np.nan
    texts = rng.normal(size=(corpus.num_items, 8)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return known_of(corpus, windows, CandidateLists(("A", "B"), items, scores), texts, last_and_user)


@pytest.mark.parametrize("name", ["base", "record", *BLOCKS])
def test_no_block_reads_what_lies_behind(name: str) -> None:
    """Other items, times and outcomes behind each window's history: the same numbers, bit for bit."""
    known, block = pool(40), {"base": BASE, "record": RECORD_BLOCK, **BLOCKS}[name]
    seen = block.compute(known)
    compared = 0
    for world in hidden_worlds(known, 3, seed=1):
        again = block.compute(world.known.of(world.rows))
        assert list(again) == list(seen)
        for number, values in again.items():
            np.testing.assert_array_equal(values, seen[number][world.rows], err_msg=number)
        compared += len(world.rows)
    assert compared == len(known.windows)


def test_chunks_change_nothing() -> None:
    """More windows than are computed at a time, and the last ones by themselves."""
    known = pool(CHUNK // 3 + 5)
    last = np.arange(len(known.windows) - 30, len(known.windows))
    assert last[0] < CHUNK < last[-1]
    _, values = name_and_compute(known, EVERY)
    np.testing.assert_array_equal(values[last], name_and_compute(known.of(last), EVERY)[1])


# ---------------------------------------------------------------- side by side


def test_blocks_are_switched_one_by_one() -> None:
    known = pool(5)
    everything = set(name_and_compute(known, EVERY)[0])
    gone = {}
    for name in BLOCKS:
        names = name_and_compute(known, EVERY.model_copy(update={name: False}))[0]
        gone[name] = everything - set(names)
    assert {name: len(numbers) for name, numbers in gone.items()} == {
        "content": 12, "shape": 12, "agreement": 2, "popularity": 8, "pace": 4, "user_vector": 3,
    }  # fmt: skip
    assert set(name_and_compute(replace(known, embeddings=None), EVERY)[0]) == everything - gone["content"]
    assert set(name_and_compute(replace(known, vectors=None), EVERY)[0]) == everything - gone["user_vector"]
    assert EVERY.names == tuple(BLOCKS)


def test_user_vectors_are_numbers_of_their_recaller() -> None:
    """Windows behind items 5 and 6 of users 0 and 1, with histories of two items and of one; C has no vector."""
    windows = windows_of([(0, Part.POLICY, 2, 3), (1, Part.POLICY, 1, 2)], [1, 1])
    known = known_of(corpus_of([[0, 5, 1], [6, 2]]), windows, lists_of([[1], [2], [3]], [[1], [2], [3]]))
    assert computed("user_vector", replace(known, vectors=last_and_user)) == {
        "A: user vector 1": [5, 6],
        "A: user vector 2": [2, 1],
        "B: user vector 1": [0, 1],
    }


def test_words_are_those_of_numbers_that_there_are() -> None:
    names = name_and_compute(pool(5), EVERY)[0]
    for block in BLOCKS.values():
        assert all(number in names or f"A: {number}" in names for number in block.told), block.name


def test_levels_are_fifths_of_policy_windows() -> None:
    """Policy windows have 0, 10, ..., 100: the cuts are 20, 40, 60 and 80. A value on a cut is in the upper fifth."""
    values = np.array([[10.0 * place] for place in range(11)] + [[-5], [20], [79], [1000]])
    known = pool(5)
    stored = window_numbers(known, EVERY)
    policy = known.windows.part == Part.POLICY
    np.testing.assert_allclose(stored.cuts[:, 1], np.quantile(stored.values[policy], 0.4, axis=0))
    numbers = WindowNumbers(("n",), values, np.array([[20.0, 40, 60, 80]]))
    assert [numbers.level(window, "n") for window in range(11, 15)] == [0, 1, 3, 4]
    assert numbers.level(0, "another") is None
    assert WindowNumbers(("n",), values, np.zeros((1, 4))).level(3, "n") is None, "most windows have the same"


def test_round_trip(tmp_path: Path) -> None:
    numbers = window_numbers(pool(5), EVERY)
    save_numbers(tmp_path / "numbers.safetensors", numbers)
    again = load_numbers(tmp_path / "numbers.safetensors")
    assert again.names == numbers.names
    np.testing.assert_array_equal(again.values, numbers.values)
    np.testing.assert_array_equal(again.cuts, numbers.cuts)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"prompt": {"blocks": ("pace",)}, "features": {"pace": False}}, "names pace, which is off in features"),
        ({"prompt": {"blocks": ("popularity", "popularity")}}, "names one twice"),
    ],
)
def test_a_prompt_tells_only_blocks_that_are_on(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExperimentConfig.model_validate(sections)


def test_numbers_that_are_written_block_by_block_are_the_same_file(tmp_path: Path) -> None:
    known = pool(5)
    rows = np.arange(len(known.windows))
    policy = known.windows.of(Part.POLICY)
    save_numbers(tmp_path / "whole", window_numbers(known, EVERY))
    parts = (name_and_compute(known.of(part), EVERY) for part in np.array_split(rows, 3))
    written = write_numbers(tmp_path / "blocks", parts, policy, len(rows))
    assert (tmp_path / "blocks").read_bytes() == (tmp_path / "whole").read_bytes()
    assert lies_in_a_file(written.values) and lies_in_a_file(load_numbers(tmp_path / "whole").values)


def test_numbers_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers.safetensors"
    save_numbers(path, window_numbers(pool(5), EVERY))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SafetensorError):
        load_numbers(path)
