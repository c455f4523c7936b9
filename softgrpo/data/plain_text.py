"""What text files need that Arrow cannot do by itself: published separators and encodings, and the line that is wrong."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from softgrpo.common.text import one_line
from softgrpo.data.kinds import KNOWN, PUBLISHED, SEPARATORS, U_ITEM_GENRES, Kind, is_packed, line_error, open_bytes
from softgrpo.errors import DataError

OLD_ENCODING = "iso-8859-1"
"""Of MovieLens' older files of items."""
UNIT_SEPARATOR = "\x1f"
BLOCK = 1 << 24
"""Bytes that are read at a time."""

DAMAGES = (pa.ArrowException, OSError, EOFError, zlib.error)
"""What a file that is not whole raises; a packed one that ends early EOFError."""


def damaged(path: Path, error: Exception) -> DataError:
    """Returns the error of a file that cannot be read at all."""
    return DataError(
        f"'{path}' cannot be read: {one_line(str(error))}",
        f"A table is {KNOWN}, and whole",
        "Correct it, or write the file again",
        code="DATA-037",
    )


def text_source(path: Path, kind: Kind) -> Any:
    """Opens a text file for Arrow: unpacked, with one character between fields, in UTF-8."""
    if kind not in ("double colon", "u.item", "u.user"):
        return pa.input_stream(str(path), compression="gzip" if is_packed(path) else None)
    content = path.read_bytes()
    if kind == "double colon":
        content = content.replace(b"::", UNIT_SEPARATOR.encode())
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        content = content.decode(OLD_ENCODING).encode("utf-8")
    return pa.BufferReader(content)


def is_plain(path: Path) -> bool:
    """Tells whether an atomic file is UTF-8 without empty lines, and with carriage returns at the ends of lines only."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            block += file.readline()
            try:
                block.decode("utf-8")
            except UnicodeDecodeError:
                return False
            empty = block.startswith((b"\n", b"\r\n")) or b"\n\n" in block or b"\n\r\n" in block
            if empty or block.count(b"\r") != block.count(b"\r\n"):
                return False
    return True


def read_u_item(path: Path, columns: Sequence[str]) -> pa.Table:
    """Reads MovieLens' `u.item`, its genres joined by blanks."""
    names = [*PUBLISHED[path.name.lower()][1], *U_ITEM_GENRES]
    text = path.read_bytes().decode(OLD_ENCODING)
    table = pd.read_csv(
        io.StringIO(text), sep="|", header=None, names=names, dtype=str, na_filter=False, quoting=csv.QUOTE_NONE
    )
    flags = table[list(U_ITEM_GENRES)] == "1"
    table["class"] = [
        " ".join(name for name, on in zip(U_ITEM_GENRES, row, strict=True) if on) for row in flags.to_numpy()
    ]
    return pa.Table.from_pandas(table[list(columns)], preserve_index=False)


def first_wrong_line(path: Path, kind: Kind, count: int) -> DataError | None:
    """Returns the error of the first line that is not UTF-8 or has not as many fields as the header, None where all are right."""
    numbered = _fields(path, kind)
    while True:
        try:
            line, fields = next(numbered)
        except StopIteration:
            return None
        except csv.Error as error:
            return damaged(path, error)
        except DataError as error:
            return error
        if fields and len(fields) != count:
            return line_error(path, line, f"{len(fields)} fields, the header has {count}")


def _fields(path: Path, kind: Kind) -> Iterator[tuple[int, list[str]]]:
    """Gives the lines of a text file that are records, with the number of the line that each ends at."""

    def lines() -> Iterator[str]:
        with open_bytes(path) as source:
            for number, line in enumerate(source, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise line_error(
                        path,
                        number,
                        f"byte {error.start + 1} of the line is not UTF-8",
                        "the whole file is in one encoding, UTF-8",
                    ) from error

    if kind == "double colon":
        yield from ((number, line.rstrip("\r\n").split("::")) for number, line in enumerate(lines(), start=1))
        return
    reader = csv.reader(
        lines(),
        delimiter=SEPARATORS[kind],
        quoting=csv.QUOTE_MINIMAL if kind in ("csv", "tsv") else csv.QUOTE_NONE,
    )
    for fields in reader:
        yield reader.line_num, fields
