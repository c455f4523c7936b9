"""JSON lines, as Amazon's reviews and products are published: one object a line, read by Arrow, or line by line where it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow_json

from softgrpo.data.kinds import is_packed, line_error, no_row, open_bytes

LOOKED_AT = 200
"""Lines whose keys are the columns."""
BLOCK = 1 << 25
RULE = "each line is one JSON object, in UTF-8"


def look(path: Path) -> tuple[list[str], list[pa.DataType]]:
    """Returns the keys of the first objects of a file, and Arrow's types of their values.

    Raises:
        DataError: The file is empty, or a line is no object.
    """
    types: dict[str, pa.DataType] = {}
    for _, row in islice(_objects(path), LOOKED_AT):
        for key, value in row.items():
            found = _type_of(value)
            if pa.types.is_null(types.get(key, pa.null())):
                types[key] = found
            elif not pa.types.is_null(found) and found != types[key]:
                types[key] = pa.float64() if {found, types[key]} == {pa.int64(), pa.float64()} else pa.string()
    if not types:
        raise no_row(path)
    return list(types), list(types.values())


def read(path: Path, names: Sequence[str], types: Sequence[pa.DataType], wanted: Sequence[str]) -> pa.Table:
    """Returns the values of some keys, null where an object lacks one.

    Raises:
        DataError: A line is no JSON object; the message names it.
    """
    by_name = dict(zip(names, types, strict=True))
    schema = pa.schema([(name, pa.string() if pa.types.is_null(by_name[name]) else by_name[name]) for name in wanted])
    try:
        with pa.input_stream(str(path), compression="gzip" if is_packed(path) else None) as source:
            table = arrow_json.read_json(
                source,
                arrow_json.ReadOptions(block_size=BLOCK),
                arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
        return table.select(list(wanted))
    except pa.ArrowInvalid:  # a line is damaged, or values of one key are of several types
        return _line_by_line(path, wanted)


def _line_by_line(path: Path, wanted: Sequence[str]) -> pa.Table:
    columns: dict[str, list[str | None]] = {name: [] for name in wanted}
    for _, row in _objects(path):
        for name, values in columns.items():
            values.append(_text(row.get(name)))
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested without end
                raise line_error(path, number, f"no JSON ({str(error).splitlines()[0]})", RULE) from error
            if not isinstance(row, dict):
                raise line_error(path, number, f"a {type(row).__name__}, no object", RULE)
            yield number, row


def _type_of(value: Any) -> pa.DataType:
    """Returns Arrow's type of a value of JSON; null of one that is no text, number or list of texts."""
    if isinstance(value, bool) or value is None:
        return pa.null()
    if isinstance(value, int):
        return pa.int64()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return pa.list_(pa.string())
    return pa.null()


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
