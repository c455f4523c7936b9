"""Tables of users from files of any size: read in pieces, of which only the rows of some users are kept.

A user belongs to a shard by a hash of the name alone, so that several processes, or several passes of one, share a file without
talking to each other. Legend: n rows of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from softgrpo.data.file_pieces import PIECE, look, read_pieces
from softgrpo.data.kinds import checked_kind
from softgrpo.data.times import read_times
from softgrpo.data.usual import first_usual
from softgrpo.errors import DataError, StoreError, nearest

_ROW = ""
"""Column of the numbers of rows in a part; no key is empty."""


@dataclass(frozen=True)
class Shard:
    """Every `count`-th user, by a hash of the name.

    Attributes:
        index: Which one, 0 to count - 1.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    def part(self, index: int, count: int) -> Shard:
        """Returns one of `count` equal parts of this shard."""
        return Shard(self.index + self.count * index, self.count * count)

    def holds(self, names: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Tells which users (n,) belong to it."""
        if self.count == 1:
            return np.ones(len(names), dtype=np.bool_)
        mine: NDArray[np.bool_] = _hashes(names) % np.uint64(self.count) == self.index
        return mine

    def parts(self, names: NDArray[np.object_], count: int) -> NDArray[np.int64]:
        """Returns to which of `count` equal parts users (n,) of this shard belong, see `part`."""
        places = _hashes(names) % np.uint64(self.count * count) // np.uint64(self.count)
        return places.astype(np.int64)


def _hashes(names: NDArray[np.object_]) -> NDArray[np.uint64]:
    return pd.util.hash_array(names, categorize=True)


@dataclass(frozen=True)
class Stream:
    """A file whose columns have been found.

    Attributes:
        path: The file.
        columns: What is wanted -> the file's column.
        ignored: The file's other columns.
        rows: How many rows it has; of a text file about as many.
    """

    path: Path
    columns: Mapping[str, str]
    ignored: tuple[str, ...]
    rows: int

    @classmethod
    def open(cls, path: Path, wanted: Mapping[str, Sequence[str]], needed: Sequence[str]) -> Stream:
        """Looks at a file's columns.

        Args:
            path: The file.
            wanted: What is wanted -> the names that its column may have; the first of them that is there is read.
            needed: What must be there.

        Raises:
            DataError: There is no such file, it is of another kind, damaged or empty, or lacks a column.
        """
        names, rows = look(path, checked_kind(path))
        columns = {key: first_usual(names, known) or "" for key, known in wanted.items()}
        for key in needed:
            if not columns[key]:
                raise DataError(
                    f"'{path}' with the columns {', '.join(names)}",
                    f"It has a column '{wanted[key][0]}'"
                    + (f" (or '{wanted[key][1]}')" if len(wanted[key]) > 1 else ""),
                    f"Rename one. {nearest(wanted[key][0], names)}",
                    code="DATA-032",
                )
        found = {key: name for key, name in columns.items() if name}
        return cls(path, found, tuple(name for name in names if name not in found.values()), rows)

    def pieces(self, shard: Shard, user: str) -> Iterator[tuple[NDArray[np.int64], pd.DataFrame]]:
        """Gives the rows of the users of a shard: their numbers in the file from 0, and a table with a column for each key.

        Args:
            shard: Whose rows are wanted.
            user: The key of the column with the user.

        Raises:
            DataError: The file is damaged, or a row lacks its user.
        """
        first = 0
        for piece in read_pieces(self.path, list(self.columns.values())):
            table = piece.rename(columns={name: key for key, name in self.columns.items()})
            names = self.names(first + np.arange(len(table)), table[user], user)
            kept = np.flatnonzero(shard.holds(names))
            yield first + kept, table.iloc[kept].reset_index(drop=True)
            first += len(table)

    def in_parts(self, shard: Shard, user: str, count: int, folder: Path) -> list[PartOfStream]:
        """Sorts the rows of a shard's users into parts, in one pass over the file.

        Args:
            shard: Whose rows are wanted.
            user: The key of the column with the user.
            count: How many parts.
            folder: Gets a file for each part that has a row; it is needed as long as they are read.

        Returns:
            The rows of the users of `shard.part(0, count)`, `shard.part(1, count)`, ...

        Raises:
            DataError: See `pieces`.
        """
        paths = [folder / f"{part}.arrow" for part in range(count)]
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        stored = np.zeros(count, dtype=np.int64)
        with ExitStack() as stack:
            for numbers, table in self.pieces(shard, user):
                part = shard.parts(table[user].to_numpy(object), count)
                order = np.argsort(part, kind="stable")
                rows = pa.table({**{key: _column(table[key]) for key in self.columns}, _ROW: numbers}).take(order)
                ends = np.searchsorted(part[order], np.arange(count + 1))
                counts = np.diff(ends)
                stored += counts
                for own in np.flatnonzero(counts).tolist():
                    if own not in writers:
                        writers[own] = stack.enter_context(pa.ipc.new_stream(paths[own], rows.schema))
                    writers[own].write_table(rows.slice(ends[own], counts[own]))
        return [
            PartOfStream(self.path, self.columns, self.ignored, self.rows, path, int(own))
            for path, own in zip(paths, stored, strict=True)
        ]

    def names(self, rows: NDArray[np.int64], values: pd.Series, key: str) -> NDArray[np.object_]:
        """Returns a column of a piece as names.

        Raises:
            DataError: One is missing, or they are decimal numbers, which have no one way to be written.
        """
        if pd.api.types.is_numeric_dtype(values.dtype):
            raise self.wrong(int(rows[0]) if len(rows) else 0, f"{self.columns[key]} is of the type {values.dtype}")
        names = values.to_numpy(object)
        if (empty := names == "").any():
            raise self.wrong(int(rows[np.flatnonzero(empty)[0]]), f"{self.columns[key]} is empty")
        return names

    def numbers(self, rows: NDArray[np.int64], values: pd.Series, key: str) -> NDArray[np.float64]:
        """Returns a column of a piece as finite numbers.

        Raises:
            DataError: A value is none.
        """
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
        if (bad := ~np.isfinite(numbers)).any():
            at = int(np.flatnonzero(bad)[0])
            raise self.wrong(int(rows[at]), f"{self.columns[key]} is '{values.iloc[at]}', no finite number")
        return numbers

    def times(self, rows: NDArray[np.int64], values: pd.Series, key: str) -> NDArray[np.float64]:
        """Returns a column of a piece as times, in seconds where they are since 1970.

        Raises:
            DataError: A value is none.
        """
        return read_times(values, lambda at, what: self.wrong(int(rows[at]), f"{self.columns[key]} is {what}"))[0]

    def wrong(self, row: int, what: str) -> DataError:
        """Returns what is to be said of a row that cannot be read."""
        return DataError(
            f"'{self.path}', row {row + 1}: {what}",
            "Every row is whole",
            "Correct the row, or remove it",
            code="DATA-033",
        )


@dataclass(frozen=True)
class PartOfStream(Stream):
    """The rows of some users of a file, in a file of their own.

    Attributes:
        stored: That file; there is none where they have no row.
        stored_rows: How many they are.
    """

    stored: Path
    stored_rows: int

    def pieces(self, shard: Shard, user: str) -> Iterator[tuple[NDArray[np.int64], pd.DataFrame]]:
        """Gives these rows as `Stream.pieces` does; the shard is the one that they were sorted by.

        Raises:
            StoreError: The file with these rows is damaged or gone.
        """
        left = self.stored_rows
        waiting: list[pa.RecordBatch] = []
        for batch in self._batches() if left else ():
            left -= batch.num_rows
            waiting.append(batch)
            if sum(each.num_rows for each in waiting) >= PIECE:
                yield self._piece(waiting)
                waiting = []
        if left:
            raise self._damaged(f"{left:,} of {self.stored_rows:,} rows are missing")
        if waiting:
            yield self._piece(waiting)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            with pa.ipc.open_stream(self.stored) as reader:
                yield from reader
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> StoreError:
        return StoreError(
            f"'{self.stored}', rows of '{self.path}': {what}",
            "Temporary files must stay as they are for as long as users are scored",
            "Run the command again; TMPDIR names the folder of such files",
            code="STORE-050",
        )

    def _piece(self, batches: list[pa.RecordBatch]) -> tuple[NDArray[np.int64], pd.DataFrame]:
        table = pa.Table.from_batches(batches).combine_chunks()
        columns = {key: table[key].to_numpy() for key in self.columns}
        return table[_ROW].to_numpy(), pd.DataFrame(columns)


def _column(values: pd.Series) -> pa.Array:
    """Returns a column of a piece as Arrow has it: texts, or decimal numbers."""
    return pa.array(values.to_numpy(), pa.float64() if pd.api.types.is_float_dtype(values.dtype) else pa.string())
