"""Interactions as arrays: users and items by number, without a Python loop over rows. Legend: N rows, U users, I items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from softgrpo.config import DataConfig
from softgrpo.data.tables import As, TableFile
from softgrpo.data.times import OWN, RULE, in_seconds, read_times
from softgrpo.data.usual import Found, Role, find_columns
from softgrpo.errors import DataError

ROWS_AT_ONCE = 1_000_000
"""Rows whose names are in memory as texts at a time."""
KINDS: dict[Role, As] = {"user": "name", "item": "name", "time": "time", "rating": "number"}
TABLE_RULE = "a table has a value in each column that is read"


@dataclass(frozen=True)
class Names:
    """A column of names, numbered in the order of the names.

    Attributes:
        codes: (N,) int32.
        names: (n,) texts, ascending, each once; not all of them need to be in `codes`.
    """

    codes: NDArray[np.int32]
    names: NDArray[Any]


@dataclass(frozen=True)
class Interactions:
    """Rows of interactions.

    Attributes:
        user: (N,) int32 numbers in `users`.
        item: (N,) int32 numbers in `items`.
        time: (N,) float64; NaN where the file has none.
        users: (U,) names, ascending.
        items: (I,) names, ascending.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    users: NDArray[Any]
    items: NDArray[Any]

    def of(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Interactions:
        """Returns some rows, all names kept."""
        return replace(self, user=self.user[rows], item=self.item[rows], time=self.time[rows])


@dataclass(frozen=True)
class Understood:
    """What was understood of a file of interactions.

    Attributes:
        columns: Which column holds what.
        unit: Of the times.
        rows: N, before anything is left out.
    """

    columns: dict[Role, Found]
    unit: str
    rows: int


def read_interactions(file: TableFile, config: DataConfig) -> tuple[Interactions, Understood]:
    """Reads the rows that the rating filter keeps, in the order of the file.

    Raises:
        DataError: A column is missing, or a value; the message names the line.
    """
    if config.min_rating is not None and config.rating_field is None:
        raise DataError(
            "data.min_rating without data.rating_field", "a rating filter needs ratings", "Set both", code="DATA-006"
        )
    columns = find_columns(file.path, file.names, config)
    table = file.read({found.name: KINDS[role] for role, found in columns.items()})
    users, items = (read_names(file, table, columns[role].name) for role in ("user", "item"))
    time, unit = np.full(table.num_rows, np.nan), OWN
    if "time" in columns:
        time, unit = _times(file, table, columns["time"].name)
    rows = Interactions(users.codes, items.codes, time, users.names, items.names)
    if config.min_rating is not None:
        rows = rows.of(_numbers(file, table, columns["rating"].name) >= config.min_rating)
    return rows, Understood(columns, unit, table.num_rows)


def read_names(file: TableFile, table: pa.Table, name: str) -> Names:
    """Returns a column of names.

    Raises:
        DataError: A name is empty; the message names the line.
    """
    column = table.column(name)
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of no chunk
        whole = whole.chunk(0)
    names = whole.dictionary.to_numpy(zero_copy_only=False).astype(object)
    codes = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    empty = np.array([not text.strip() for text in names], dtype=np.bool_)
    bad = (codes < 0) | empty[codes] if empty.any() else codes < 0
    if bad.any():
        raise file.wrong(int(np.flatnonzero(bad)[0]), f"{name} is empty", f"every row needs a {name}")
    order = np.argsort(names, kind="stable")
    rank = np.empty(len(names), dtype=np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    return Names(rank[codes], names[order])


def _numbers(file: TableFile, table: pa.Table, name: str) -> NDArray[np.float64]:
    """Returns a column as finite numbers.

    Raises:
        DataError: A value is none; the message names the line.
    """
    column = table.column(name)
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
    else:
        values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        found = column[int(bad[0])].as_py()
        what = f"{name} is '{'' if found is None else found}'"
        raise file.wrong(int(bad[0]), what, f"{name} must be a finite number ({len(bad)} lines break the rule)")
    return np.asarray(values, dtype=np.float64)


def _times(file: TableFile, table: pa.Table, name: str) -> tuple[NDArray[np.float64], str]:
    """Returns a column of times in seconds, and the unit that they had.

    Raises:
        DataError: A value is no time, or the times are of several forms; the message names the line.
    """
    column = table.column(name)
    if pa.types.is_temporal(column.type):
        stamps = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)))
        numbers = stamps.cast(pa.int64()).to_numpy() / 1e6
        unit = f"the type {column.type}"
    elif pa.types.is_floating(column.type):
        numbers, unit = column.to_numpy(), OWN
    else:
        texts = column.to_pandas().fillna("")
        return read_times(texts, lambda row, what: file.wrong(row, f"{name} is {what}", RULE))
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        rule = f"{name} must be a finite number ({len(bad)} lines break the rule)"
        raise file.wrong(int(bad[0]), f"{name} is '{column[int(bad[0])].as_py()}'", rule)
    return in_seconds(numbers) if unit == OWN else (numbers, unit)


def in_order(rows: Interactions) -> Interactions:
    """Returns rows by (user, time, place in the file), of equal pairs of user and item the first."""
    if len(rows.time) and np.isnan(rows.time[0]):
        order = np.argsort(rows.user, kind="stable")
        rows = rows.of(order)
    else:
        step = np.diff(rows.user)
        if (step < 0).any() or (np.diff(rows.time)[step == 0] < 0).any():
            rows = rows.of(np.lexsort((rows.time, rows.user)))
    pairs = rows.user.astype(np.int64) * len(rows.items) + rows.item
    repeated = pd.Series(pairs).duplicated().to_numpy(bool)
    return rows.of(~repeated) if repeated.any() else rows


def tie_hash(user: pd.Series, item: pd.Series, seed: int) -> NDArray[np.uint64]:
    """Returns a number per row that depends on the seed and the pair of tokens only, (rows,) uint64."""
    return _tie_hash(user.to_numpy(object), item.to_numpy(object), seed)


def _tie_hash(user: NDArray[np.object_], item: NDArray[np.object_], seed: int) -> NDArray[np.uint64]:
    key, both = f"{seed:016d}", user + "\t" + item
    return pd.util.hash_array(np.asarray(both, dtype=object), hash_key=key, categorize=False)


def hash_ties(rows: Interactions, seed: int) -> Interactions:
    """Returns rows that are in order, those of one user and one time by a seeded hash of their names."""
    same = (np.diff(rows.user) == 0) & (np.diff(rows.time) == 0)
    tied = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]]))
    if not len(tied):
        return rows
    begins = np.concatenate([[True], ~same])[tied]
    hashes = np.concatenate(
        [
            _tie_hash(rows.users[rows.user[part]], rows.items[rows.item[part]], seed)
            for part in np.split(tied, range(ROWS_AT_ONCE, len(tied), ROWS_AT_ONCE))
        ]
    )
    item = rows.item.copy()
    item[tied] = rows.item[tied[np.lexsort((hashes, np.cumsum(begins)))]]  # users and times of a tie are equal
    return replace(rows, item=item)


def renumbered(rows: Interactions) -> Interactions:
    """Returns the rows with the names that are left, which are numbered without gaps, in their order."""
    parts = []
    for codes, names in ((rows.user, rows.users), (rows.item, rows.items)):
        there = np.bincount(codes, minlength=len(names)) > 0
        number = (np.cumsum(there) - 1).astype(np.int32)
        parts.append((number[codes], names[there]))
    (user, users), (item, items) = parts
    return Interactions(user, item, rows.time, users, items)
