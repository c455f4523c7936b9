"""The item ranker: what it sees by hand, an order that no weights reach, and proofs that no test answer reaches it."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skops.io import dump

from softgrpo.baselines.item_numbers import (
    Candidates,
    ItemKnowledge,
    ListedWindows,
    candidates_of,
    latest_items,
)
from softgrpo.baselines.item_ranker import (
    CARD,
    NEGATIVES,
    STORED,
    RankerData,
    draw_examples,
    fit_item_ranker,
    is_target,
    load_ranker,
    ordered,
)
from softgrpo.common.records import Part
from softgrpo.errors import DataError, PolicyError
from softgrpo.ranking.judged import judge_order
from softgrpo.stages.ranker import fit_ranker, rank_rows
from tests.softgrpo.baselines.cases import small_config, small_prepared
from tests.softgrpo.data.cases import corpus_of, windows_of

ITEMS, DEPTH = 400, 30
FAMOUS = 300
"""Items from here on are popular; the target of every window is the only popular item of its lists."""


def listed(count: int, seed: int) -> tuple[ListedWindows, np.ndarray]:
    """Returns windows whose target is somewhere in one of two random lists, and the targets (W, 1)."""
    generator = np.random.default_rng(seed)
    items = np.stack([generator.permutation(FAMOUS)[: 2 * DEPTH].reshape(2, DEPTH) for _ in range(count)])
    targets = generator.integers(FAMOUS, ITEMS, (count, 1))
    rows = np.arange(count)
    items[rows, generator.integers(0, 2, count), generator.integers(0, DEPTH, count)] = targets[:, 0]
    scores = -np.sort(-generator.random(items.shape), axis=2)
    return ListedWindows(items.astype(np.int32), scores.astype(np.float32), np.full((count, 5), -1, np.int32)), targets


def ranker_data(train: int = 120, valid: int = 20, asked: int = 25) -> tuple[RankerData, ListedWindows, np.ndarray]:
    """Returns what the ranker is fitted on, windows that it is asked about, and their targets (W, 1)."""
    parts = [listed(count, seed) for seed, count in enumerate((train, valid, asked))]
    knowledge = ItemKnowledge(np.where(np.arange(ITEMS) >= FAMOUS, 50, 2))
    return RankerData(*parts[0], *parts[1], knowledge, 10, 3), *parts[2]


def test_it_finds_an_item_that_no_weights_bring_up() -> None:
    """The target may be last in its list; its popularity alone tells it apart, and it comes first in every window."""
    data, asked, targets = ranker_data()
    ranker = fit_item_ranker(data)
    ranking = ranker.rank(asked, data.knowledge)
    assert ranking.items.shape == (25, DEPTH)
    assert (ranking.items[:, 0] == targets[:, 0]).all()
    assert (np.diff(ranking.scores) <= 0).all(), "the best first"
    assert ranker.valid_ndcg == pytest.approx(1)
    assert "trees of" in ranker.choice


def test_a_ranker_from_files_orders_the_same_to_the_last_digit(tmp_path: Path) -> None:
    data, asked, _ = ranker_data(60, 10, 10)
    ranker = fit_item_ranker(data)
    ranker.save(tmp_path / "ranker")
    assert {path.name for path in (tmp_path / "ranker").iterdir()} == {CARD, STORED}
    loaded = load_ranker(tmp_path)
    assert (loaded.rounds, loaded.valid_ndcg, loaded.choice) == (ranker.rounds, ranker.valid_ndcg, ranker.choice)
    ranking, again = (each.rank(asked, data.knowledge) for each in (ranker, loaded))
    assert np.array_equal(ranking.items, again.items) and np.array_equal(ranking.scores, again.scores)
    one = loaded.rank(asked.select(slice(3, 4)), data.knowledge)
    assert np.array_equal(one.items, ranking.items[3:4]), "one window at a time too"
    assert loaded.rank(asked.select(slice(0, 0)), data.knowledge).items.shape == (0, DEPTH)


def test_what_a_ranker_does_not_know_is_refused(tmp_path: Path) -> None:
    data, asked, _ = ranker_data(60, 10, 10)
    ranker = fit_item_ranker(data)
    content = replace(data.knowledge, embeddings=np.zeros((ITEMS, 4), np.float32))
    with pytest.raises(PolicyError, match=r"2 recallers with embeddings: 10 numbers.*fitted on 8.*POLICY-043"):
        ranker.rank(asked, content)
    alone = replace(asked, items=asked.items[:, :1], scores=asked.scores[:, :1])
    with pytest.raises(PolicyError, match=r"1 recallers without embeddings: 5 numbers"):
        ranker.rank(alone, data.knowledge)
    with pytest.raises(PolicyError, match="POLICY-037"):
        load_ranker(tmp_path)
    ranker.save(tmp_path / "ranker")
    dump(argparse.Namespace(a=1), tmp_path / "ranker" / STORED)
    with pytest.raises(PolicyError, match=r"trees\.skops is not the file that was stored.*POLICY-040"):
        load_ranker(tmp_path)


def test_equal_seeds_give_equal_orders() -> None:
    data, asked, _ = ranker_data(60, 10, 10)
    state = np.random.get_state()[1].tolist()
    assert np.array_equal(*(fit_item_ranker(data).rank(asked, data.knowledge).scores for _ in range(2)))
    assert np.random.get_state()[1].tolist() == state, "the random numbers of others are left alone"


def test_test_answers_change_no_order() -> None:
    config = small_config()
    orders = []
    for seed in (7, 8):
        prepared = small_prepared(config, seed)
        orders.append(rank_rows(prepared, fit_ranker(prepared), prepared.windows.of(Part.TEST)).items)
    assert np.array_equal(*orders)


def test_without_a_target_in_any_list_items_keep_their_best_rank(tmp_path: Path) -> None:
    """Lists 4, 2 and 9, 4: item 4 is first in one, 9 in the other, 4 has the lower id; then 2."""
    lists = ListedWindows(
        np.array([[[4, 2], [9, 4]]], np.int32), np.array([[[2, 1], [2, 1]]], np.float32), np.full((1, 5), -1, np.int32)
    )
    nothing = np.array([[7]], np.int32)
    data = RankerData(lists, nothing, lists, nothing, ItemKnowledge(np.zeros(10, np.int64)), 10, 0)
    fit_item_ranker(data).save(tmp_path / "ranker")
    ranker = load_ranker(tmp_path)
    assert ranker.rank(lists, data.knowledge).items.tolist() == [[4, 9]]
    assert ranker.choice == "nothing to learn from: items by their best rank"
    assert ranker.valid_ndcg == 0


@pytest.mark.parametrize(("part", "name"), [("train", "policy"), ("valid", "validation")])
def test_no_windows_is_an_error(part: str, name: str) -> None:
    data, _, _ = ranker_data(5, 5, 5)
    with pytest.raises(DataError, match=f"no {name} window"):
        fit_item_ranker(replace(data, **{part: getattr(data, part).select(slice(0, 0))}))


# ---------------------------------------------------------------- what it sees


def test_numbers_of_items_by_hand() -> None:
    """Two lists of depth 3; the second one is shorter. Union: 1, 5, 7, 8."""
    nan = math.nan
    lists = ListedWindows(
        np.array([[[5, 1, 8], [7, 5, -1]]], np.int32),
        np.array([[[10.0, 6.0, 2.0], [0.5, 0.1, nan]]], np.float32),
        np.array([[2, 3, -1, -1, -1]], np.int32),
    )
    popularity = np.zeros(10, np.int64)
    popularity[[1, 8]] = 3, 1
    ((part, found),) = candidates_of(lists, ItemKnowledge(popularity))
    assert part == slice(0, 1)
    assert found.items.tolist() == [[1, 5, 7, 8]]
    assert found.best.tolist() == [[1, 0, 0, 2]]
    expected = [  # rank, rank, score, score, share, share, lists, log(1 + popularity)
        [2, nan, 6, nan, 0.5, nan, 1, math.log(4)],
        [1, 2, 10, 0.1, 1, 0, 2, 0],
        [nan, 1, nan, 0.5, nan, 1, 1, 0],
        [3, nan, 2, nan, 0, nan, 1, math.log(2)],
    ]
    np.testing.assert_allclose(found.numbers[0], expected, atol=1e-6)


def test_content_by_hand() -> None:
    """Last item along x, the one before along y: the profile is (1, 0.7) / sqrt(1.49). Item 5 has no text, item 7 lies along y."""
    embeddings = np.zeros((10, 2), np.float32)
    embeddings[[2, 3, 7]] = [1, 0], [0, 1], [0, 1]
    lists = ListedWindows(
        np.array([[[7, 5]]], np.int32), np.array([[[2.0, 1.0]]], np.float32), np.array([[2, 3, -1, -1, -1]], np.int32)
    )
    ((_, found),) = candidates_of(lists, ItemKnowledge(np.zeros(10, np.int64), embeddings))
    np.testing.assert_allclose(found.numbers[0, :, -2:], [[0, 0], [0, 0.7 / math.sqrt(1.49)]], atol=1e-6)


def test_the_latest_items_are_those_before_the_window() -> None:
    """The user's items are 3, 1, 4, 2, 6, 5, 0; the windows begin at 2 and at 6."""
    corpus = corpus_of([[9, 8], [3, 1, 4, 2, 6, 5, 0]])
    windows = windows_of([(1, Part.POLICY, 2, 4), (1, Part.TEST, 6, 7)], [1, 1])
    found = latest_items(corpus, windows, np.array([0, 1]))
    assert found.tolist() == [[1, 3, -1, -1, -1], [5, 6, 2, 4, 1]]


def test_examples_are_all_targets_and_some_others_of_windows_with_a_hit() -> None:
    data, _, _ = ranker_data(10, 5, 5)
    targets = data.train_targets.copy()
    targets[4:] = 0
    data = replace(data, train_targets=np.where(np.arange(10)[:, None] < 4, targets, FAMOUS - 1))
    hits = sum(FAMOUS - 1 in each for each in data.train.items[4:])
    numbers, labels = draw_examples(data)
    assert labels.sum() == 4 + hits
    assert len(labels) == len(numbers) == (4 + hits) * (1 + NEGATIVES)
    assert numbers.shape[1] == 8


def test_targets_among_items() -> None:
    items = np.array([[1, 5, -1], [2, 3, 4]])
    targets = np.array([[5, -1], [4, 2]], np.int32)
    assert is_target(items, targets).tolist() == [[False, True, False], [True, False, True]]


def test_best_first_by_hand() -> None:
    """Scores 1, 3, 3 and nothing: of the equal ones the better rank comes first, of equal ranks the lower id."""
    found = Candidates(np.array([[1, 5, 6, -1]]), np.array([[0, 4, 2, 9]]), np.zeros((1, 4, 1), np.float32))
    scores = np.array([[1.0, 3.0, 3.0, 99.0]])
    assert ordered(found, scores, 2).items.tolist() == [[6, 5]]
    assert ordered(found, scores, 5).items.tolist() == [[6, 5, 1, -1, -1]]
    equal = replace(found, best=np.zeros((1, 4), np.int64))
    assert ordered(equal, scores, 3).items.tolist() == [[5, 6, 1]]


def test_an_order_is_judged_as_a_list() -> None:
    """The target is second: NDCG 1 / log2 3 = 0.6309, and nothing in the second window."""
    judged = judge_order(np.array([[4, 2], [3, -1]]), np.array([[2], [2]], np.int32), 2)
    ndcg = judged.ndcg(torch.ones(1, 1, dtype=torch.float64))
    assert ndcg[:, 0].tolist() == [pytest.approx(0.63093, abs=1e-5), 0]
