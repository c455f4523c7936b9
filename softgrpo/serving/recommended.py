"""What was recommended, as tables, as records and in files; it needs no torch, so that a wrong name is refused at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from softgrpo.common.columns import Columns
from softgrpo.common.files import written_whole
from softgrpo.common.text import visible_json
from softgrpo.errors import ConfigError

STATIC = "static"
"""Key of the row of the best static mixture."""
OF_REQUESTS = ("without", "unknown_items")
"""Columns of users that requests have, and test windows have not."""


@dataclass(frozen=True)
class Recommended:
    """What a run recommends.

    Attributes:
        users: One row per user asked for, in that order: `user`; `weights`, key of the method that gave them; `reason` why that is
            not the method that was asked, empty where it is; `weight_<recaller>`, sum 1, NaN where a ranker ordered the items. Of
            requests also `without`, the recallers that have no list, and `unknown_items`, how many items of the history were left
            out.
        items: One row per user and rank: `user`, `rank` from 1, `item`, `title`, `score`, and `from_<recaller>`, which sum to the
            score. Score and rrf: weight times what one unit of weight gives. Quota: 1 from the recaller whose turn it was. Of a
            ranker the score is its own, and the parts are NaN.
        recallers: The M names.
    """

    users: pd.DataFrame
    items: pd.DataFrame
    recallers: tuple[str, ...]

    @property
    def fallbacks(self) -> dict[str, list[str]]:
        """Users that got other weights than those of the method that was asked, by reason."""
        others = self.users[self.users["reason"] != ""]
        return {str(reason): group[Columns.User].tolist() for reason, group in others.groupby("reason", sort=False)}


def as_records(recommended: Recommended) -> Iterator[dict[str, Any]]:
    """Gives one JSON-able record per user: user, source (key of the method), reason, weights, and items with each recaller's part.

    Weights and parts are null where a ranker ordered the items.
    """
    names = recommended.recallers
    by_user = dict(tuple(recommended.items.groupby(Columns.User, sort=False)))
    for row in recommended.users.to_dict("records"):
        listed = by_user.get(row[Columns.User], recommended.items.iloc[:0]).to_dict("records")
        yield {
            Columns.User: row[Columns.User],
            "source": row["weights"],
            "reason": row["reason"],
            **{name: row[name] for name in OF_REQUESTS if name in row},
            "weights": _by_recaller(row, "weight", names),
            "items": [
                {key: item[key] for key in ("rank", Columns.Item, Columns.Title, Columns.Score)}
                | {"from": _by_recaller(item, "from", names)}
                for item in listed
            ],
        }


def _by_recaller(row: Mapping[Any, Any], column: str, names: Sequence[str]) -> dict[str, Any] | None:
    """Returns the values `<column>_<recaller>` of a row by recaller; None where a ranker weighed none."""
    values = {name: row[f"{column}_{name}"] for name in names}
    return None if any(math.isnan(value) for value in values.values()) else values


def write_recommended(path: Path, recommended: Recommended) -> None:
    """Writes a `.parquet` file, one row per user and rank with source, reason and weights, or a `.json` file, one record per user.

    Raises:
        ConfigError: The name ends otherwise.
    """
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as aside:
        if path.suffix == ".json":
            text = json.dumps(list(as_records(recommended)), indent=1, ensure_ascii=False)
            aside.write_text(f"{visible_json(text)}\n", encoding="utf-8")
            return
        merged = recommended.users.merge(recommended.items, on=Columns.User, how="left", sort=False)
        merged.to_parquet(aside, index=False)


def schema_of(recallers: Sequence[str]) -> pa.Schema:
    """Returns the columns of a file of requests: one row per user and rank; a user that gets nothing has one without a rank."""
    numbers = [(f"weight_{name}", pa.float64()) for name in recallers]
    parts = [(f"from_{name}", pa.float64()) for name in recallers]
    texts = [(name, pa.string()) for name in (Columns.User, "weights", "reason", OF_REQUESTS[0])]
    item = [
        ("rank", pa.int32()),
        (Columns.Item, pa.string()),
        (Columns.Title, pa.string()),
        (Columns.Score, pa.float64()),
    ]
    return pa.schema([*texts, (OF_REQUESTS[1], pa.int64()), *numbers, *item, *parts])


TEXT = pa.schema([("record", pa.string())])
"""The column of what a JSON file is made of: one record per user, as its text."""


def rows_schema(suffix: str, recallers: Sequence[str]) -> pa.Schema:
    """Returns the columns of the rows that a file with such an ending is made of."""
    return TEXT if suffix == ".json" else schema_of(recallers)


def rows_of(recommended: Recommended, suffix: str) -> pa.Table:
    """Returns a batch as the rows that a file with such an ending is made of, see `rows_schema`."""
    if suffix == ".json":
        texts = [visible_json(json.dumps(record, ensure_ascii=False)) for record in as_records(recommended)]
        return pa.table([texts], schema=TEXT)
    schema = schema_of(recommended.recallers)
    merged = recommended.users.merge(recommended.items, on=Columns.User, how="left", sort=False)
    columns = [pa.array(merged[field.name], field.type, from_pandas=True) for field in schema]
    return pa.table(columns, schema=schema)


class RequestWriter:
    """Writes what requests get as it comes, a batch at a time; the file takes its place when all are written.

    Args:
        path: A `.parquet` file, or a `.json` file with a list of records.
        recallers: The M names.
    """

    def __init__(self, path: Path, recallers: Sequence[str]) -> None:
        self._path, self._schema, self._stack = check_format(path), schema_of(recallers), ExitStack()
        self._table: pq.ParquetWriter | None = None
        self._text: TextIO | None = None
        self._separator = "[\n"

    def __enter__(self) -> RequestWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            aside = stack.enter_context(written_whole(self._path))
            if self._path.suffix == ".json":
                self._text = stack.enter_context(aside.open("w", encoding="utf-8"))
            else:
                self._table = stack.enter_context(pq.ParquetWriter(aside, self._schema, compression="zstd"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if self._text is not None and error[0] is None:
            self._text.write("]\n" if self._separator == ",\n" else "[]\n")
        return self._stack.__exit__(*error)

    def write(self, recommended: Recommended) -> None:
        """Writes a batch."""
        self.write_rows(rows_of(recommended, self._path.suffix))

    def write_rows(self, rows: pa.Table) -> None:
        """Writes the rows of a batch, see `rows_of`."""
        if self._table is not None:
            self._table.write_table(rows)
            return
        assert self._text is not None, "the writer is open"
        for text in rows.column(0).to_pylist():
            self._text.write(self._separator + text)
            self._separator = ",\n"


def check_format(path: Path) -> Path:
    """Returns a path whose name ends with `.parquet` or `.json`.

    Raises:
        ConfigError: It does not.
    """
    if path.suffix not in (".parquet", ".json"):
        raise ConfigError(
            f"'{path}'",
            "Recommendations are written as .parquet or .json",
            "Give the file such a name",
            code="CONFIG-070",
        )
    return path
