"""Rows of a file of lists by ranges of windows, and their names as numbers: what is held at a time does not grow with the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus, Windows
from softgrpo.recallers.candidates import BLOCK
from softgrpo.recallers.list_tables import ListFile

Ids = NDArray[np.int64]
PART_ROWS = 1_000_000
"""Rows of a file that are held at a time, at most; more are not faster."""
ABSENT = -1
NULL = -2
"""Numbers of what is not there, and of what is missing in the file."""


@dataclass(frozen=True)
class Known:
    """What a file of lists may name.

    Attributes:
        users: Names of users, in the order of their numbers.
        items: Names of items, likewise.
        keys: (W,) ascending, one number for the user and the start of each window.
        size: By which a user's number is multiplied in a key; above every start.
    """

    users: pd.Index
    items: pd.Index
    keys: Ids
    size: int

    @classmethod
    def of(cls, corpus: Corpus, windows: Windows) -> Known:
        """Returns the names of a corpus and its windows, which come sorted by user and start."""
        size = int(windows.start.max()) + 1
        keys = windows.user.astype(np.int64) * size + windows.start
        return cls(pd.Index(corpus.users[Columns.Token]), pd.Index(corpus.items[Columns.Token]), keys, size)


@dataclass
class _Groups:
    """Row groups of a file with the windows of their rows; the one that was read last is kept, as the next range begins in it.

    Attributes:
        file: The file.
        known: What it may name.
    """

    file: ListFile
    known: Known
    _kept: tuple[int, pa.Table, Ids] | None = None

    def read(self, group: int) -> tuple[pa.Table, Ids]:
        """Returns the rows of a group and the window of each."""
        if self._kept is None or self._kept[0] != group:
            self._kept = None  # before another one is there
            table = self.file.read([group])
            self._kept = (group, table, windows_of(table, self.known))
        return self._kept[1:]


def parts_of(file: ListFile, known: Known, most: int) -> Iterator[tuple[slice, pa.Table, Ids]]:
    """Gives ranges of windows with their rows and these rows' numbers; rows of no window come with the first range.

    Args:
        file: The file.
        known: What it may name.
        most: Rows that are held at a time, where a block of windows has no more.
    """
    starts, count = file.starts, len(known.keys)
    groups = range(len(starts) - 1)
    if file.rows <= most:
        yield slice(0, count), file.read(groups), np.arange(file.rows)
        return
    counts, spans, strays = np.zeros(count, dtype=np.int64), [], []
    for group in groups:
        window = windows_of(file.read([group], (Columns.User, Columns.Window)), known)
        placed = window[window >= 0]
        low, high = int(placed.min(initial=count)), int(placed.max(initial=-1))
        if len(placed):
            counts[low : high + 1] += np.bincount(placed - low)
        spans.append((low, high))
        strays.append(len(placed) < len(window))
    reader = _Groups(file, known)
    for part in _ranges(counts, most):
        tables, rows = [], []
        for group, (low, high) in enumerate(spans):
            if not (low < part.stop and high >= part.start) and not (part.start == 0 and strays[group]):
                continue
            table, window = reader.read(group)
            own = np.flatnonzero(((window >= part.start) & (window < part.stop)) | ((window < 0) & (part.start == 0)))
            tables.append(table.take(pa.array(own)))
            rows.append(starts[group] + own)
        if tables:
            yield part, pa.concat_tables(tables).unify_dictionaries().combine_chunks(), np.concatenate(rows)
        else:
            yield part, file.read([0]).slice(0, 0), np.empty(0, dtype=np.int64)


def _ranges(counts: Ids, most: int) -> Iterator[slice]:
    """Gives ranges of windows, in whole blocks, of so many rows each at most where a block has no more."""
    behind = np.append(np.arange(BLOCK, len(counts), BLOCK), len(counts))
    ends = np.cumsum(counts)[behind - 1]
    first, taken = 0, 0
    for place, end in enumerate(ends.tolist()):
        last = place == len(ends) - 1
        if last or ends[place + 1] - taken > most:
            yield slice(first, int(behind[place]))
            first, taken = int(behind[place]), end


def windows_of(table: pa.Table, known: Known) -> Ids:
    """Returns the number of each row's window, -1 where there is none."""
    user = ids_of(table[Columns.User], known.users)
    # unsigned numbers that int64 does not hold become negative, as no number of a window is
    before = pc.fill_null(plain(table[Columns.Window]).cast(pa.int64(), safe=False), ABSENT).to_numpy()
    possible = (user >= 0) & (before >= 0) & (before < known.size)
    row_numbers = np.where(possible, user * known.size + before, ABSENT)
    place = np.minimum(np.searchsorted(known.keys, row_numbers), len(known.keys) - 1)
    return np.where(known.keys[place] == row_numbers, place, ABSENT)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column without a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def ids_of(column: pa.ChunkedArray, tokens: pd.Index) -> Ids:
    """Returns the number of each name among the tokens; every different name is looked up once."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    text = encoded.combine_chunks()
    text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    names = text.dictionary.cast(pa.string()).to_pylist()
    known = tokens.get_indexer(names)  # -1 where it is not there
    known = np.where([name is None for name in names], NULL, known)
    codes = pc.fill_null(text.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    found: Ids = np.append(known, NULL)[codes].astype(np.int64)
    return found
