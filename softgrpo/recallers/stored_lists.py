"""Candidate lists in files, written and read for some windows at a time: what is held does not grow with the windows.

Legend: W windows, w some of them, M recallers, D depth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists
from softgrpo.common.scratch import scratch
from softgrpo.errors import CandidateError
from softgrpo.recallers.candidates import (
    BLOCK,
    META,
    NO_ITEM,
    REBUILD,
    STORED,
    lists_table,
    readable,
    stored_meta,
)

ENTRY_BYTES = 8
"""Of an entry of a list in memory: item and score."""


@dataclass(frozen=True)
class StoredLists:
    """Lists in a file of `ListsWriter`.

    Attributes:
        path: The file.
        recallers: The M names.
        depth: D.
        windows: W.
        hold: Bytes that the lists of all windows may take to be kept in memory once some are asked for.
    """

    path: Path
    recallers: tuple[str, ...]
    depth: int
    windows: int
    hold: float = 0.0

    @classmethod
    def open(cls, path: Path, hold: float = 0.0) -> StoredLists:
        """Looks at a file.

        Raises:
            CandidateError: It is missing, damaged or of another kind.
        """
        meta = stored_meta(path)
        found = cls(path, tuple(meta["recallers"]), int(meta["depth"]), int(meta["windows"]), hold)
        lists, expected = int(found._groups[-1]), found.windows * len(found.recallers)
        if lists != expected:
            raise CandidateError(f"{path} holds {lists} of {expected} lists", STORED, REBUILD, code="CANDIDATE-029")
        return found

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        """(groups + 1,) the first list of each row group, and behind the last one how many there are."""
        with readable(self.path):
            meta = pq.read_metadata(self.path)
        return np.cumsum([0, *(meta.row_group(group).num_rows for group in range(meta.num_row_groups))])

    @cached_property
    def _whole(self) -> CandidateLists | None:
        """All lists, where they may be kept."""
        size = self.windows * len(self.recallers) * self.depth * ENTRY_BYTES
        return self._read(np.arange(self.windows)) if size <= self.hold else None

    def rows(self, rows: NDArray[np.int64]) -> CandidateLists:
        """Returns the lists of some windows, (w,) numbers, in their order.

        Raises:
            CandidateError: The file is damaged.
        """
        if self._whole is not None:
            return self._whole.rows(rows)
        return self._read(rows)

    def _read(self, rows: NDArray[np.int64]) -> CandidateLists:
        """Returns what `rows` does, from the file: one row group is in memory at a time."""
        pool = len(self.recallers)
        found = empty_lists(self.recallers, len(rows), self.depth)
        items, scores = (part.reshape(-1, self.depth) for part in (found.items, found.scores))
        wanted = (rows[:, None] * pool + np.arange(pool)).ravel()  # numbers of lists in the file
        order = np.argsort(wanted, kind="stable")
        ends = np.searchsorted(wanted[order], self._groups)
        with readable(self.path), pq.ParquetFile(self.path) as file:
            for group in np.flatnonzero(np.diff(ends)).tolist():
                places = order[ends[group] : ends[group + 1]]
                table = file.read_row_group(group, columns=[Columns.Items, Columns.Scores])
                table = table.take(pa.array(wanted[places] - self._groups[group]))
                for whole, name in ((items, Columns.Items), (scores, Columns.Scores)):
                    lists = table[name].combine_chunks()
                    filled = np.arange(self.depth) < lists.value_lengths().to_numpy()[:, None]
                    part = whole[places]
                    part[filled] = lists.flatten().to_numpy()
                    whole[places] = part
        return found

    def blocks(self) -> Iterator[tuple[slice, CandidateLists]]:
        """Gives all windows, a block at a time, with their numbers."""
        for first in range(0, self.windows, BLOCK):
            part = slice(first, min(first + BLOCK, self.windows))
            yield part, self.rows(np.arange(part.start, part.stop))


def empty_lists(recallers: tuple[str, ...], windows: int, depth: int) -> CandidateLists:
    """Returns lists without an item, to be filled; those of many windows lie in a file."""
    shape = (windows, len(recallers), depth)
    lists = CandidateLists(recallers, scratch(shape, np.int32), scratch(shape, np.float32))
    lists.items.fill(NO_ITEM)
    lists.scores.fill(np.nan)
    return lists


@dataclass(frozen=True)
class StoredPool:
    """The lists of several recallers for the same windows, each in a file of its own.

    Attributes:
        stored: In the order of the pool.
    """

    stored: tuple[StoredLists, ...]

    @classmethod
    def open(cls, paths: Sequence[Path]) -> StoredPool:
        """Looks at the files.

        Raises:
            CandidateError: There are none, one is missing or damaged, they cover different numbers of windows, or a recaller
                appears twice.
        """
        stored = tuple(StoredLists.open(path) for path in paths)
        _check_pool(stored)
        return cls(stored)

    @property
    def recallers(self) -> tuple[str, ...]:
        """The M names."""
        return tuple(name for each in self.stored for name in each.recallers)

    @property
    def depth(self) -> int:
        """D, that of the longest lists."""
        return max(each.depth for each in self.stored)

    @property
    def windows(self) -> int:
        """W."""
        return self.stored[0].windows

    def rows(self, rows: NDArray[np.int64]) -> CandidateLists:
        """Returns the pooled lists of some windows, (w,) numbers, in their order."""
        pool, first = empty_lists(self.recallers, len(rows), self.depth), 0
        for each in self.stored:
            place = slice(first, first + len(each.recallers))
            own = each.rows(rows)
            pool.items[:, place, : each.depth], pool.scores[:, place, : each.depth] = own.items, own.scores
            first = place.stop
        return pool


def _check_pool(stored: Sequence[StoredLists]) -> None:
    """Checks that files of lists make a pool.

    Raises:
        CandidateError: There are none, they cover different numbers of windows, or a recaller appears twice.
    """
    names = tuple(name for each in stored for name in each.recallers)
    sizes = sorted({each.windows for each in stored})
    if len(sizes) != 1:
        raise CandidateError(
            f"Candidate lists for {sizes} windows", "A pool covers the same windows", REBUILD, code="CANDIDATE-003"
        )
    if len(set(names)) < len(names):
        raise CandidateError(
            f"Recallers {', '.join(names)}",
            "A pool holds each recaller once",
            "Drop the repeated one",
            code="CANDIDATE-004",
        )


class ListsWriter:
    """Writes a Parquet file of lists, a block of windows at a time: a row per (window, recaller) with both, items and scores.

    Lists end where they end (no padding); recallers, depth and number of windows are in the file's metadata.

    Args:
        path: The file.
        recallers: The M names.
        depth: D.
        windows: W, how many will come.
    """

    def __init__(self, path: Path, recallers: tuple[str, ...], depth: int, windows: int) -> None:
        self._path, self._written = path, 0
        self._meta = {"recallers": recallers, "depth": depth, "windows": windows}
        self._stack = ExitStack()
        self._writer: Any = None

    def __enter__(self) -> ListsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, lists: CandidateLists) -> None:
        """Writes the lists of the next windows as one row group."""
        table = lists_table(lists, self._written).replace_schema_metadata({META: json.dumps(self._meta)})
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._stack.enter_context(pq.ParquetWriter(self._path, table.schema, compression="zstd"))
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._written += len(lists.items)


def write_candidates(path: Path, lists: CandidateLists) -> None:
    """Writes lists that are in memory."""
    with ListsWriter(path, lists.recallers, lists.depth, len(lists.items)) as writer:
        for first in range(0, max(len(lists.items), 1), BLOCK):
            writer.write(lists.rows(slice(first, first + BLOCK)))
