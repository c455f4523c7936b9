"""Tables of users and of lists in files of any kind: their columns, and their rows in pieces, every name as the text that it is."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from softgrpo.data.kinds import SEPARATORS, Kind, checked_kind, is_packed, no_row, open_bytes
from softgrpo.data.plain_text import DAMAGES, damaged
from softgrpo.data.tables import TableFile
from softgrpo.errors import DataError

PIECE = 200_000
"""Rows that are read at a time."""
PLAIN: tuple[Kind, ...] = ("atomic", "csv", "tsv")
"""Text files that pandas reads in pieces; those of other kinds, but for Parquet, are read at once."""
_AGAIN = "Write or copy it again"
HEAD = 1 << 16
"""Bytes at the beginning of a file that tell how wide its lines are."""
PACKED_SHRINKS = 10
"""By which factor gzip makes a table smaller, about."""


def look(path: Path, kind: Kind) -> tuple[list[str], int]:
    """Returns the names of a file's columns, and how many rows it has."""
    try:
        if kind == "parquet":
            with pq.ParquetFile(path) as file:
                names, rows = file.schema_arrow.names, file.metadata.num_rows
        elif kind in PLAIN:
            head = _checked_width(path, pd.read_csv(path, nrows=100, **_options(kind)))
            names = [str(name).partition(":")[0] if kind == "atomic" else str(name) for name in head.columns]
            width = len(head.to_csv(index=False, header=False)) / max(len(head), 1)
            rows = 0 if head.empty else max(len(head), int(path.stat().st_size / width))
        else:
            table = TableFile.open(path)
            names, rows = list(table.names), _about_rows(path)
    except (
        pa.ArrowException,
        OSError,
        EOFError,
        ValueError,
    ) as error:  # of pandas and of texts that are not UTF-8: ValueError
        raise damaged(path, error) from error
    if not rows:
        raise no_row(path)
    if len(set(names)) < len(names):
        raise DataError(
            f"'{path}' with the columns {', '.join(names)}", "A column has a name of its own", _AGAIN, code="DATA-036"
        )
    return names, rows


def _about_rows(path: Path) -> int:
    """Returns about how many lines a text file has, from its size and the width of its first lines; a packed one rather more."""
    with open_bytes(path) as file:
        head = file.read(HEAD)
    size = path.stat().st_size * (PACKED_SHRINKS if is_packed(path) else 1)
    return int(size * max(head.count(b"\n"), 1) / max(len(head), 1))


def _checked_width(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table as it is.

    Raises:
        DataError: Its rows have a field more than the header, and pandas has taken the first for a label.
    """
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(
            f"'{path}' with rows of more fields than the {len(table.columns)} names in its first line",
            "Each column has a name",
            "Name all columns in the first line",
            code="DATA-051",
        )
    return table


def _options(kind: Kind) -> dict[str, Any]:
    """Returns how a text file is read: every value as the text that it is."""
    atomic = kind == "atomic"
    return {
        "sep": SEPARATORS[kind],
        "dtype": str,
        "na_filter": False,
        "quoting": csv.QUOTE_NONE if atomic else csv.QUOTE_MINIMAL,
        "encoding": "utf-8-sig",
    }


def read_pieces(path: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Gives a file's columns as tables of text, in the order of its rows."""
    kind = checked_kind(path)
    try:
        if kind == "parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(PIECE, columns=columns):
                    yield pd.DataFrame({name: _text(batch.column(name)) for name in columns})
            return
        if kind not in PLAIN:
            table = TableFile.open(path).read(dict.fromkeys(columns, "text"))
            for batch in table.to_batches(PIECE):
                yield pd.DataFrame({name: _text(batch.column(name)) for name in columns})
            return
        for piece in pd.read_csv(path, chunksize=PIECE, **_options(kind)):
            _checked_width(path, piece)
            if kind == "atomic":
                piece.columns = [str(name).partition(":")[0] for name in piece.columns]
            yield piece[columns]
    except (*DAMAGES, ValueError) as error:
        raise damaged(path, error) from error


def _text(column: pa.Array) -> NDArray[np.object_]:
    """Returns names as text, "" where one is missing; numbers stay as they are."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if pa.types.is_floating(plain.type):
        return plain.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    return plain.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
