"""Candidate lists: top-N with masking and ties, the file, and the check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.errors import CandidateError, LeakageError
from softgrpo.recallers.best_items import top_items
from softgrpo.recallers.candidate_checks import check_candidates
from softgrpo.recallers.candidates import build_candidates
from softgrpo.recallers.stored_lists import StoredPool, write_candidates
from tests.softgrpo.recallers.cases import corpus_of, windows_of
from tests.support.whole import read_candidates

INF, NAN = float("inf"), float("nan")


class Table:
    """A recaller that looks each user's scores up in a table (U, I)."""

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = torch.tensor(scores)

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        return self.scores[torch.from_numpy(users)]


def world() -> tuple[Corpus, Windows]:
    corpus = corpus_of([[0, 1, 2], [3, 2, 4]], 5)
    return corpus, windows_of([(0, 1, 2), (0, 2, 3), (1, 2, 3)], [1, 1])


def lists(items: list[list[int]], scores: list[list[float]], name: str = "A") -> CandidateLists:
    return CandidateLists((name,), np.array(items, np.int32)[:, None], np.array(scores, np.float32)[:, None])


GOOD = lists([[3, 1, 4], [4, 2, -1], [0, -1, -1]], [[0.9, 0.8, 0.8], [0.5, 0.1, NAN], [0.0, NAN, NAN]])


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_history_is_masked_ties_go_to_the_lower_id_and_short_lists_end(batch_size: int) -> None:
    corpus, windows = world()
    model = Table([[9.0, 0.5, 0.7, 0.7, 0.1], [0.2, -INF, 8.0, 9.0, -INF]])
    items, scores = build_candidates(model, corpus, windows, 3, batch_size, "test")
    # window 0 hides item 0; window 1 items 0 and 1; window 2 items 3 and 2, and two items have no score
    assert items.tolist() == [[2, 3, 1], [2, 3, 4], [0, -1, -1]]
    expected = np.array([[0.7, 0.7, 0.5], [0.7, 0.7, 0.1], [0.2, NAN, NAN]], np.float32)
    np.testing.assert_array_equal(scores, expected)
    check_candidates(CandidateLists(("T",), items[:, None], scores[:, None]), corpus, windows)


def test_a_depth_beyond_all_items() -> None:
    corpus, windows = world()
    items, _ = build_candidates(Table([[1.0, 2, 3, 4, 5], [1.0, 2, 3, 4, 5]]), corpus, windows, 7, 2, "test")
    assert items[0].tolist() == [4, 3, 2, 1, -1, -1, -1]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_top_items_equals_a_full_stable_sort(data: st.DataObject) -> None:
    count, depth = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    few = st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0])  # ties are everywhere
    values = data.draw(st.sampled_from([few, few | st.floats(-3, 3, width=32)]))
    rows = data.draw(st.lists(st.lists(values, min_size=count, max_size=count), min_size=1, max_size=4))
    best, items = top_items(torch.tensor(rows), depth)
    for row, got, chosen in zip(rows, best.tolist(), items.tolist(), strict=True):
        expected = sorted(range(count), key=lambda item: (-row[item], item))[:depth]
        assert got == [row[item] for item in expected]
        finite = [item for item in expected if row[item] > -INF]
        assert chosen[: len(finite)] == finite


def test_file_round_trip_has_one_row_per_window_and_recaller(tmp_path: Path) -> None:
    pool = pooled(tmp_path, GOOD, lists([[1], [-1], [4]], [[1.0], [NAN], [-2.0]], "B"))
    write_candidates(tmp_path / "deep" / "candidates.parquet", pool)
    table = pd.read_parquet(tmp_path / "deep" / "candidates.parquet")
    assert table["window"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["recaller"].tolist() == ["A", "B", "A", "B", "A", "B"]
    assert [list(one) for one in table["items"]] == [[3, 1, 4], [1], [4, 2], [], [0], [4]]
    again = read_candidates(tmp_path / "deep" / "candidates.parquet")
    assert again.recallers == ("A", "B")
    assert again.items.dtype == np.int32
    assert again.scores.dtype == np.float32
    np.testing.assert_array_equal(again.items, pool.items)
    np.testing.assert_array_equal(again.scores, pool.scores)


def test_more_entries_than_32_bits_count_have_offsets_of_64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, count = tmp_path / "candidates.parquet", int((GOOD.items >= 0).sum())
    for most, kind in ((count, pa.list_), (count - 1, pa.large_list)):
        monkeypatch.setattr("softgrpo.recallers.candidates._MOST_ENTRIES", most)
        write_candidates(path, GOOD)
        schema = pq.read_schema(path)
        assert (schema.field("items").type, schema.field("scores").type) == (kind(pa.int32()), kind(pa.float32()))
        again = read_candidates(path)
        np.testing.assert_array_equal(again.items, GOOD.items)
        np.testing.assert_array_equal(again.scores, GOOD.scores)


def test_files_that_hold_no_candidates(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    pd.DataFrame({"items": [1]}).to_parquet(tmp_path / "other.parquet")
    for name in ("missing.parquet", "text.parquet", "other.parquet"):
        with pytest.raises(CandidateError, match=name):
            read_candidates(tmp_path / name)


def pooled(folder: Path, *each: CandidateLists) -> CandidateLists:
    """Writes lists and reads them as a pool."""
    paths = [folder / f"{number}.parquet" for number in range(len(each))]
    for path, one in zip(paths, each, strict=True):
        write_candidates(path, one)
    pool = StoredPool.open(paths)
    return pool.rows(np.arange(pool.windows))


def test_a_pool_refuses_other_windows_and_repeated_names(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=r"\[CANDIDATE-003\]"):
        pooled(tmp_path, GOOD, lists([[1]], [[1.0]], "B"))
    with pytest.raises(CandidateError, match=r"\[CANDIDATE-004\]"):
        pooled(tmp_path, GOOD, GOOD)
    with pytest.raises(CandidateError, match=r"\[CANDIDATE-003\]"):
        pooled(tmp_path)


def test_good_lists_pass() -> None:
    check_candidates(GOOD, *world())


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        ([5, 1, -1], [0.9, 0.8, NAN], "does not exist"),
        ([-2, 1, -1], [0.9, 0.8, NAN], "does not exist"),
        ([3, -1, 4], [0.9, NAN, 0.8], "empty place"),
        ([3, 1, -1], [0.9, NAN, NAN], "without"),
        ([3, 1, -1], [0.9, 0.8, 0.7], "without"),
        ([3, 3, -1], [0.9, 0.9, NAN], "twice"),
        ([3, 1, 4], [0.9, 0.7, 0.8], "rise"),
        ([3, 1, 4], [INF, 0.8, 0.7], "infinite"),
        ([3, 1, 4], [0.9, 0.8, -INF], "infinite"),
    ],
)
def test_broken_lists_are_refused(items: list[int], scores: list[float], message: str) -> None:
    broken = replace(GOOD, items=GOOD.items.copy(), scores=GOOD.scores.copy())
    broken.items[0, 0], broken.scores[0, 0] = items, scores
    with pytest.raises(CandidateError, match=message):
        check_candidates(broken, *world())


@pytest.mark.parametrize(("window", "item"), [(0, 0), (1, 0), (1, 1), (2, 3), (2, 2)])
def test_a_history_item_is_a_leak(window: int, item: int) -> None:
    broken = replace(GOOD, items=GOOD.items.copy(), scores=GOOD.scores.copy())
    broken.items[window, 0], broken.scores[window, 0] = [item, -1, -1], [1.0, NAN, NAN]
    with pytest.raises(LeakageError, match=f"window {window}"):
        check_candidates(broken, *world())


def test_lists_of_another_shape() -> None:
    with pytest.raises(CandidateError, match=r"shape.*\[CANDIDATE-008\]"):
        check_candidates(replace(GOOD, items=GOOD.items[:2]), *world())
