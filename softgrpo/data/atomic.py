"""RecBole atomic files: tab-separated tables whose header names each column as `name:type`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from softgrpo.data.kinds import line_error
from softgrpo.errors import DataError

FORMAT_RULE = "an atomic file is UTF-8 text, tab-separated, with a header of name:type columns"


def _error(path: Path, line: int, what: str) -> DataError:
    return line_error(path, line, what, FORMAT_RULE)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line numbers from 1 and lines without their ends; only a line feed ends a line, as in `read_atomic`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _error(path, number, f"byte {error.start + 1} of the line is not UTF-8") from error
            yield number, text.removesuffix("\n").removesuffix("\r")


def read_header(path: Path) -> list[str]:
    """Returns the column names of an atomic file, without their types.

    Raises:
        DataError: The file is empty, is no text, or its header is not of the form name:type.
    """
    _, header = next(_lines(path), (1, ""))
    if not header:
        raise _error(path, 1, "the file is empty")
    fields = header.split("\t")
    for field in fields:
        if field.count(":") != 1 or not all(field.split(":")):
            raise _error(path, 1, f"header column '{field}' has no type")
    names = [field.split(":")[0] for field in fields]
    if len(set(names)) < len(names):
        raise _error(path, 1, f"the header names a column twice: {', '.join(names)}")
    return names


def read_atomic(path: Path) -> pd.DataFrame:
    """Reads an atomic file as text, row i being line i + 2 of the file.

    Returns:
        One column of strings per column of the file, without types in the names.

    Raises:
        DataError: A line has another number of fields than the header, or the file is not UTF-8 text.
    """
    names = read_header(path)
    _check_field_counts(path, len(names))
    table = pd.read_csv(
        path, sep="\t", skiprows=1, header=None, names=names, dtype=str, na_filter=False,
        quoting=csv.QUOTE_NONE, skip_blank_lines=False, index_col=False, lineterminator="\n",
    )  # fmt: skip
    return table.assign(**{names[-1]: table[names[-1]].str.removesuffix("\r")})


def _check_field_counts(path: Path, expected: int) -> None:
    number = 0
    for number, line in _lines(path):
        if line.count("\t") != expected - 1:
            found = line.count("\t") + 1 if line.strip() else 0
            raise _error(path, number, f"{found} fields, the header has {expected}")
    if number == 1:
        raise _error(path, 2, "there is no row below the header")
