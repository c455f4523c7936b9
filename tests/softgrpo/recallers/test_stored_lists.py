"""Lists that are read for some windows at a time are those that were written, whatever the row groups of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from softgrpo.common.records import CandidateLists
from softgrpo.errors import CandidateError
from softgrpo.recallers.stored_lists import ListsWriter, StoredLists, StoredPool, write_candidates
from tests.support.whole import read_candidates

ROWS = np.array([4, 0, 6, 4])


def lists(recallers: tuple[str, ...] = ("A", "B"), depth: int = 3, seed: int = 0) -> CandidateLists:
    """Returns lists of seven windows, of all lengths from 0 on."""
    rng = np.random.default_rng(seed)
    shape = (7, len(recallers), depth)
    behind = np.arange(depth) >= rng.integers(0, depth + 1, shape[:2])[..., None]
    items = np.where(behind, -1, rng.permuted(np.tile(np.arange(9), (*shape[:2], 1)), axis=2)[..., :depth])
    scores = np.where(behind, np.nan, -np.sort(-rng.random(shape), axis=2))
    return CandidateLists(recallers, items.astype(np.int32), scores.astype(np.float32))


def assert_equal(one: CandidateLists, other: CandidateLists) -> None:
    assert one.recallers == other.recallers
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize("group", [1, 3, 5, 1000])
def test_some_windows_are_read_in_any_order(tmp_path: Path, group: int) -> None:
    """Files of earlier versions have row groups that end within a window."""
    whole, path = lists(), tmp_path / "lists.parquet"
    write_candidates(path, whole)
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=group)
    stored = StoredLists.open(path)
    assert (stored.recallers, stored.depth, stored.windows) == (("A", "B"), 3, 7)
    assert_equal(stored.rows(ROWS), CandidateLists(whole.recallers, whole.items[ROWS], whole.scores[ROWS]))
    assert_equal(stored.rows(ROWS[:0]), CandidateLists(whole.recallers, whole.items[:0], whole.scores[:0]))
    assert_equal(read_candidates(path), whole)


def test_small_lists_are_read_once(tmp_path: Path) -> None:
    whole, path = lists(), tmp_path / "lists.parquet"
    write_candidates(path, whole)
    size = 7 * 2 * 3 * 8
    held, not_held = StoredLists.open(path, size), StoredLists.open(path, size - 1)
    first = held.rows(ROWS), not_held.rows(ROWS)
    path.unlink()
    assert_equal(held.rows(ROWS), first[0])
    assert_equal(*first)
    with pytest.raises(CandidateError, match="CANDIDATE-005"):
        not_held.rows(ROWS)


def test_lists_that_are_written_in_blocks_are_those_that_are_written_at_once(tmp_path: Path) -> None:
    whole, paths = lists(), [tmp_path / "once.parquet", tmp_path / "blocks.parquet"]
    write_candidates(paths[0], whole)
    with ListsWriter(paths[1], whole.recallers, 3, 7) as writer:
        for part in (slice(0, 4), slice(4, 7)):
            writer.write(CandidateLists(whole.recallers, whole.items[part], whole.scores[part]))
    once, blocks = map(pq.read_table, paths)
    assert once.equals(blocks)
    assert once.schema.metadata == blocks.schema.metadata
    assert_equal(read_candidates(paths[1]), whole)


def test_a_pool_has_the_depth_of_its_longest_lists(tmp_path: Path) -> None:
    one, other, paths = (
        lists(("A",), 3),
        lists(("B",), 5, seed=1),
        [tmp_path / "one.parquet", tmp_path / "other.parquet"],
    )
    for path, each in zip(paths, (one, other), strict=True):
        write_candidates(path, each)
    pool = StoredPool.open(paths)
    found = pool.rows(ROWS)
    assert (pool.recallers, pool.depth, pool.windows) == (("A", "B"), 5, 7)
    np.testing.assert_array_equal(found.items[:, 0, :3], one.items[ROWS, 0])
    assert (found.items[:, 0, 3:] == -1).all() and np.isnan(found.scores[:, 0, 3:]).all()
    np.testing.assert_array_equal(found.items[:, 1], other.items[ROWS, 0])
    with pytest.raises(CandidateError, match="CANDIDATE-004"):
        StoredPool.open([paths[0], paths[0]])


def test_a_file_with_fewer_lists_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    write_candidates(path, lists())
    pq.write_table(pq.read_table(path).slice(0, 13), path)
    with pytest.raises(CandidateError, match=r"holds 13 of 14 lists.*CANDIDATE-029"):
        StoredLists.open(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CandidateError, match="CANDIDATE-005"):
        StoredLists.open(path)
