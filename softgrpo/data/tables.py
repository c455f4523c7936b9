"""Tables from files of any known kind: their columns, and the ones that are wanted as Arrow has them.

The fast way is Arrow's. What it refuses is read again as text, or looked at line by line, so that a message names the line. Legend:
n rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from softgrpo.common.text import one_line
from softgrpo.data import json_lines
from softgrpo.data.atomic import read_atomic, read_header
from softgrpo.data.kinds import (
    PUBLISHED,
    SEPARATORS,
    Kind,
    checked_kind,
    line_error,
    no_row,
    open_bytes,
)
from softgrpo.data.plain_text import (
    BLOCK,
    DAMAGES,
    UNIT_SEPARATOR,
    damaged,
    first_wrong_line,
    is_plain,
    read_u_item,
    text_source,
)
from softgrpo.errors import DataError

As = Literal["name", "number", "time", "text"]
"""What a column is read as: names of users or items (dictionary of texts), numbers (float64, or texts where one is none), times
(as numbers, or time stamps of Parquet), or texts."""


@dataclass(frozen=True)
class TableFile:
    """A file whose columns are known.

    Attributes:
        path: The file.
        kind: What it is.
        names: Its columns.
        types: Arrow's types of the columns of Parquet and JSON lines, in their order; empty for texts.
    """

    path: Path
    kind: Kind
    names: tuple[str, ...]
    types: tuple[pa.DataType, ...] = ()

    @classmethod
    def open(cls, path: Path) -> TableFile:
        """Looks at a file's columns.

        Raises:
            DataError: There is no such file, it is of another kind, damaged or empty, or has one column or the same name twice.
        """
        kind = checked_kind(path)
        try:
            names, types = _look(path, kind)
        except DAMAGES as error:
            raise damaged(path, error) from error
        if len(set(names)) < len(names):
            raise line_error(
                path, 1, f"the header names a column twice: {', '.join(names)}", "columns have different names"
            )
        return cls(path, kind, tuple(names), tuple(types))

    def read(self, wanted: Mapping[str, As]) -> pa.Table:
        """Returns some columns, rows in the order of the file; what is missing is null.

        Args:
            wanted: Columns of the file, and what each is read as.

        Raises:
            DataError: The file is damaged; the message names the line where there are lines.
        """
        try:
            return _read(self, wanted)
        except DAMAGES as error:
            raise damaged(self.path, error) from error

    def line_of(self, row: int) -> int:
        """Returns the line that a row from 0 begins at, or its number from 1 where there are no lines."""
        if self.kind == "csv":
            with open_bytes(self.path) as file:
                lines = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
                filled = (lines.line_num for fields in lines if fields)
                try:
                    return next((line for number, line in enumerate(filled) if number == row + 1), row + 2)
                except csv.Error:  # a field that is longer than Python's reader takes; Arrow's took it
                    return row + 2
        return row + (2 if self.kind in ("atomic", "tsv") else 1)

    def wrong(self, row: int, what: str, rule: str) -> DataError:
        """Returns the error of a row from 0."""
        return line_error(self.path, self.line_of(row), what, rule)


def _look(path: Path, kind: Kind) -> tuple[Sequence[str], Sequence[pa.DataType]]:
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                raise no_row(path)
            return file.schema_arrow.names, file.schema_arrow.types
    if kind == "json":
        return json_lines.look(path)
    if path.stat().st_size == 0:
        raise line_error(path, 1, "the file is empty")
    if kind == "atomic":
        return read_header(path), ()
    if path.name.lower() in PUBLISHED:
        return (*PUBLISHED[path.name.lower()][1], *(["class"] if kind == "u.item" else [])), ()
    return _header(path, SEPARATORS[kind]), ()


def _header(path: Path, separator: str) -> list[str]:
    """Returns the names in the first line of a text file."""
    with open_bytes(path) as file:
        line = file.readline(BLOCK)
    try:
        text = line.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise line_error(path, 1, f"byte {error.start + 1} of the line is not UTF-8") from error
    try:
        names = [name.strip() for name in next(csv.reader([text], delimiter=separator), [])]
    except csv.Error as error:
        raise line_error(path, 1, str(error)) from error
    if not any(names):
        raise line_error(path, 1, "the file is empty" if not text else "the header names no column")
    if len(names) == 1:
        other = next((mark for mark in (";", ",", "\t", "|") if mark in text), None)
        found = f"its fields seem to be separated by {other!r}" if other else f"the only column is '{names[0]}'"
        raise line_error(
            path,
            1,
            f"one column; {found}",
            f"the fields of this file are separated by {separator!r}, and a table has two columns or more",
        )
    if all(not name or name.replace(".", "", 1).isdigit() for name in names[1:]):
        raise line_error(path, 1, f"'{one_line(text)}' names no columns", "the first line names the columns")
    return names


def _read(file: TableFile, wanted: Mapping[str, As]) -> pa.Table:
    if file.kind == "parquet":
        return _whole(
            file, pq.read_table(file.path, columns=list(wanted), read_dictionary=_texts(file, wanted)), wanted
        )
    if file.kind == "json":
        return _whole(file, json_lines.read(file.path, file.names, file.types, tuple(wanted)), wanted)
    if file.kind == "atomic" and not is_plain(file.path):
        return pa.Table.from_pandas(read_atomic(file.path)[list(wanted)], preserve_index=False)
    if file.kind == "u.item":
        return read_u_item(file.path, tuple(wanted))
    numeric: Mapping[str, As] = {name: "text" if kind in ("number", "time") else kind for name, kind in wanted.items()}
    for columns, in_values in ((wanted, False), (numeric, False), (numeric, True)):
        try:
            table = _arrow(file, columns, newlines_in_values=in_values and file.kind == "csv")
        except pa.ArrowInvalid as error:
            refused = error
            continue
        if not table.num_rows:
            raise line_error(file.path, 2, "there is no row below the header")
        return table
    if file.kind == "atomic":
        return pa.Table.from_pandas(read_atomic(file.path)[list(wanted)], preserve_index=False)
    raise first_wrong_line(file.path, file.kind, len(file.names)) or damaged(file.path, refused)


def _texts(file: TableFile, wanted: Mapping[str, As]) -> list[str]:
    """Returns the columns of names that Parquet holds as texts, which it can give as dictionaries."""
    types = dict(zip(file.names, file.types, strict=True))
    return [name for name, kind in wanted.items() if kind == "name" and pa.types.is_string(types[name])]


def _arrow(file: TableFile, wanted: Mapping[str, As], *, newlines_in_values: bool) -> pa.Table:
    """Reads a text file by Arrow."""
    types = {"name": pa.dictionary(pa.int32(), pa.string()), "text": pa.string()}
    named = file.path.name.lower() in PUBLISHED
    quotes = file.kind in ("csv", "tsv")
    separator = UNIT_SEPARATOR if file.kind == "double colon" else SEPARATORS[file.kind]
    with text_source(file.path, file.kind) as source:
        return arrow_csv.read_csv(
            source,
            read_options=arrow_csv.ReadOptions(
                column_names=list(file.names), skip_rows=0 if named else 1, block_size=BLOCK
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quotes else False,
                newlines_in_values=newlines_in_values,
                ignore_empty_lines=file.kind != "atomic",
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(wanted),
                column_types={name: types.get(kind, pa.float64()) for name, kind in wanted.items()},
                null_values=[],
                strings_can_be_null=False,
            ),
        )


def _whole(file: TableFile, table: pa.Table, wanted: Mapping[str, As]) -> pa.Table:
    """Returns the columns of a typed file in the order and types that are wanted."""
    columns = [_typed(file, name, table.column(name), kind) for name, kind in wanted.items()]
    return pa.table(columns, names=list(wanted))


def _typed(file: TableFile, name: str, column: pa.ChunkedArray, kind: As) -> pa.ChunkedArray:
    """Returns a column of a typed file as what is wanted.

    Raises:
        DataError: It holds lists or the like, or names that are decimal numbers.
    """
    types = pa.types
    if types.is_list(column.type) and kind == "text":
        texts = [
            ", ".join(str(part) for part in parts if part is not None) for parts in column.fill_null([]).to_pylist()
        ]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if types.is_nested(column.type):
        raise DataError(
            f"'{file.path}', column '{name}' of the type {column.type}",
            f"a {kind} is one value in each row, no list of values",
            "Write one row for each of its values, or name another column",
            code="DATA-043",
        )
    if kind == "time" and types.is_temporal(column.type):
        return column
    if kind in ("number", "time"):
        plain = column.cast(column.type.value_type) if types.is_dictionary(column.type) else column
        return plain if types.is_string(plain.type) or types.is_large_string(plain.type) else plain.cast(pa.float64())
    if types.is_floating(column.type):
        column = _as_whole(file, name, column)
    if kind == "text":
        return column.cast(pa.string())
    coded = column if types.is_dictionary(column.type) else column.dictionary_encode()
    return coded.cast(pa.dictionary(pa.int32(), pa.string()))


def _as_whole(file: TableFile, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns whole numbers that pandas has made decimal, as it does where a value is missing."""
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(
            f"'{file.path}', column '{name}' of the type {column.type} ({one_line(str(error))})",
            "names are texts or whole numbers; a decimal number can be written in several ways",
            "Write the column as texts",
            code="DATA-044",
        ) from error
