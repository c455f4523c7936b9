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
PART_ROWS = 4_000_000
"""Rows of a file that are held at a time."""
ABSENT = -1
NULL = -2
"""Numbers of what is not there, and of what is missing in the file."""


@dataclass(frozen=True)
class CorpusNames:
    """CorpusNames in the order of their numbers.

    Attributes:
        users: Of users.
        items: Of items.
    """

    users: pd.Index
    items: pd.Index

    @classmethod
    def of(cls, corpus: Corpus) -> CorpusNames:
        """Returns the names of a corpus."""
        return cls(pd.Index(corpus.users[Columns.Token]), pd.Index(corpus.items[Columns.Token]))


def parts_of(file: ListFile, names: CorpusNames, windows: Windows) -> Iterator[tuple[slice, pa.Table, Ids]]:
    """Gives ranges of windows with their rows and these rows' numbers; rows of no window come with the first range."""
    starts = file.starts
    groups = range(len(starts) - 1)
    if file.rows <= PART_ROWS:
        yield slice(0, len(windows)), file.read(groups), np.arange(file.rows)
        return
    counts, spans, strays = np.zeros(len(windows), dtype=np.int64), [], []
    for group in groups:
        window = windows_of(file.read([group], (Columns.User, Columns.Window)), names, windows)
        placed = window[window >= 0]
        counts += np.bincount(placed, minlength=len(windows))
        spans.append((placed.min(initial=len(windows)), placed.max(initial=-1)))
        strays.append(len(placed) < len(window))
    for part in _ranges(counts):
        tables, rows = [], []
        for group, (low, high) in enumerate(spans):
            if not (low < part.stop and high >= part.start) and not (part.start == 0 and strays[group]):
                continue
            table = file.read([group])
            window = windows_of(table, names, windows)
            own = np.flatnonzero(((window >= part.start) & (window < part.stop)) | ((window < 0) & (part.start == 0)))
            tables.append(table.take(pa.array(own)))
            rows.append(starts[group] + own)
        if tables:
            yield part, pa.concat_tables(tables).unify_dictionaries().combine_chunks(), np.concatenate(rows)
        else:
            yield part, file.read([0]).slice(0, 0), np.empty(0, dtype=np.int64)


def _ranges(counts: Ids) -> Iterator[slice]:
    """Gives ranges of windows, in whole blocks, of at most `PART_ROWS` rows each where a block has no more."""
    behind = np.append(np.arange(BLOCK, len(counts), BLOCK), len(counts))
    ends = np.cumsum(counts)[behind - 1]
    first, taken = 0, 0
    for place, end in enumerate(ends.tolist()):
        last = place == len(ends) - 1
        if last or ends[place + 1] - taken > PART_ROWS:
            yield slice(first, int(behind[place]))
            first, taken = int(behind[place]), end


def windows_of(table: pa.Table, names: CorpusNames, windows: Windows) -> Ids:
    """Returns the number of each row's window, -1 where there is none."""
    user = ids_of(table[Columns.User], names.users)
    # unsigned numbers that int64 does not hold become negative, as no number of a window is
    before = pc.fill_null(plain(table[Columns.Window]).cast(pa.int64(), safe=False), ABSENT).to_numpy()
    return _find(user, before, windows)


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


def _find(user: Ids, before: Ids, windows: Windows) -> Ids:
    """Returns the number of each row's window, -1 where there is none; windows come sorted by (user, start)."""
    size = int(windows.start.max()) + 1
    keys = windows.user.astype(np.int64) * size + windows.start
    possible = (user >= 0) & (before >= 0) & (before < size)
    row_numbers = np.where(possible, user * size + before, ABSENT)
    place = np.minimum(np.searchsorted(keys, row_numbers), len(keys) - 1)
    return np.where(keys[place] == row_numbers, place, ABSENT)
