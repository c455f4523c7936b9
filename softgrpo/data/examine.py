"""What was understood of a dataset's files, and the settings of the split that fit them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from softgrpo.common.columns import Columns
from softgrpo.common.records import LEARNT_FROM, Part
from softgrpo.config import DataConfig, SplitConfig
from softgrpo.data.corpus import corpus_of, pick_text
from softgrpo.data.files import DataFiles, data_files
from softgrpo.data.interactions import Interactions, in_order, read_interactions
from softgrpo.data.size import DataSize
from softgrpo.data.tables import TableFile
from softgrpo.data.times import OWN
from softgrpo.data.usual import GENRE_FIELDS, TITLE_FIELDS, Found, find_column
from softgrpo.data.windows import make_windows
from softgrpo.errors import DataError

ENOUGH = 0.5
"""Share of the users with four items that must have policy and test windows in a split, or another is suggested."""
FEWEST_ITEMS = 4
SHORT: dict[str, Any] = {"split.method": "leave_last", "split.window": 1}
"""The split of short histories."""


@dataclass(frozen=True)
class Examined:
    """What was understood.

    Attributes:
        files: Of the dataset.
        columns: Which column holds what: user, item, time, rating, title, genres.
        unread: Columns of the interactions that are not read.
        unit: Of the times.
        span: The first and the last time, as texts; None without times.
        users: Different users, before any filter.
        items: Different items.
        rows: Interactions as the file has them.
        repeated: Of these, pairs of user and item that were there before.
        tied: Share of the other interactions that have the time of another one of the same user.
        per_user: Fewest, median and most different items of a user.
        titled: Share of the items that stay with a title; None without such a column.
        suggested: Settings by dotted path that the data need beside those that are given.
        kept: What they keep.
    """

    files: DataFiles
    columns: dict[str, Found]
    unread: tuple[str, ...]
    unit: str
    span: tuple[str, str] | None
    users: int
    items: int
    rows: int
    repeated: int
    tied: float
    per_user: tuple[int, float, int]
    titled: float | None
    suggested: dict[str, Any]
    kept: DataSize

    def as_record(self) -> dict[str, Any]:
        """Returns all of it, JSON-able."""
        plain = {name: value for name, value in vars(self).items() if name not in ("files", "columns", "kept")}
        return {
            "files": {role: str(path) for role, path in self.files.by_role().items()},
            "columns": {role: vars(column) for role, column in self.columns.items()},
            **plain,
            "kept": vars(self.kept),
        }


def examine(data: DataConfig, split: SplitConfig, seed: int) -> Examined:
    """Reads a dataset and returns what was understood.

    Args:
        data: Which data, and what is kept of them.
        split: The split that is tried first.
        seed: Of the order of equal times.

    Raises:
        DataError: The files cannot be read, or no split keeps a user.
    """
    files = data_files(data)
    file = TableFile.open(files.interactions)
    rows, understood = read_interactions(file, data)
    once = in_order(rows)
    counts = np.bincount(once.user)
    counts = counts[counts > 0]
    suggested, kept, titled = _suggest(once, files, data, split, seed)
    columns: dict[str, Found] = {str(role): column for role, column in understood.columns.items()}
    rating = find_column(file.names, "rating", data)
    if rating is not None:
        columns["rating"] = rating
    read = {column.name for column in columns.values()}
    return Examined(
        files,
        columns | _texts(files, data),
        tuple(name for name in file.names if name not in read),
        understood.unit,
        _span(rows, understood.unit),
        len(counts),
        len(np.unique(once.item)),
        understood.rows,
        len(rows.user) - len(once.user),
        _tied(once),
        (int(counts.min()), float(np.median(counts)), int(counts.max())),
        titled,
        suggested,
        kept,
    )


def _suggest(
    rows: Interactions, files: DataFiles, data: DataConfig, split: SplitConfig, seed: int
) -> tuple[dict[str, Any], DataSize, float | None]:
    """Returns the settings that the data need, what they keep, and the share of items with a title."""
    long_enough = int((np.bincount(rows.user) >= FEWEST_ITEMS).sum())
    usual = _try(rows, files, data, split, seed)
    if usual is not None and usual[1] >= ENOUGH * long_enough:
        return {}, usual[0], usual[2]
    short = SplitConfig.model_validate(split.model_dump() | {"method": "leave_last", "window": 1})
    found = _try(rows, files, data, short, seed)
    if found is not None and found[1] >= ENOUGH * long_enough:
        return dict(SHORT), found[0], found[2]
    all_items = data.model_copy(update={"k_core": 0})
    corpus = corpus_of(rows, files, all_items, seed)
    size = DataSize.of(corpus, make_windows(corpus, short))
    return {"data.k_core": 0} | SHORT, size, _titled(corpus.items[Columns.Title].to_numpy(object), files)


def _try(
    rows: Interactions, files: DataFiles, data: DataConfig, split: SplitConfig, seed: int
) -> tuple[DataSize, int, float | None] | None:
    """Returns what a split keeps, the users with policy and test windows, and the share of items with a title; None if nothing."""
    try:
        corpus = corpus_of(rows, files, data, seed)
        windows = make_windows(corpus, split)
    except DataError as error:
        if error.code not in ("DATA-007", "DATA-013", "DATA-015"):  # filters and split leave nothing
            raise
        return None
    learnt, tested = (np.unique(windows.user[windows.of(*parts)]) for parts in (LEARNT_FROM, (Part.TEST,)))
    titled = _titled(corpus.items[Columns.Title].to_numpy(object), files)
    return DataSize.of(corpus, windows), len(np.intersect1d(learnt, tested)), titled


def _titled(titles: Any, files: DataFiles) -> float | None:
    return None if files.items is None else float(np.mean(titles != ""))


def _texts(files: DataFiles, data: DataConfig) -> dict[str, Found]:
    """Returns the columns of the file of items that hold titles and genres."""
    if files.items is None:
        return {}
    names = TableFile.open(files.items).names
    found: dict[str, Found] = {}
    for role, setting, named, usual in (
        (Columns.Title, "data.title_field", data.title_field, TITLE_FIELDS),
        (Columns.Genres, "data.genre_field", data.genre_field, GENRE_FIELDS),
    ):
        column = pick_text(files.items, names, setting, named, usual)
        if column is not None:
            found[role] = Found(column, setting if named else "a usual name")
    return found


def _tied(rows: Interactions) -> float:
    same = (np.diff(rows.user) == 0) & (np.diff(rows.time) == 0)
    return float((np.concatenate([[False], same]) | np.concatenate([same, [False]])).mean())


def _span(rows: Interactions, unit: str) -> tuple[str, str] | None:
    """Returns the first and the last time as people read them."""
    if np.isnan(rows.time).any() or not len(rows.time):
        return None
    ends = float(rows.time.min()), float(rows.time.max())
    if unit == OWN:
        return f"{ends[0]:g}", f"{ends[1]:g}"
    first, last = (datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M") for end in ends)
    return first, last


def usual_columns_note(data: DataConfig) -> str | None:
    """Returns a line to say where columns were found by a usual name, None where settings name all of them."""
    path = data_files(data).interactions
    found = {role: find_column(TableFile.open(path).names, role, data) for role in ("user", "item", "time")}
    if all(column is None or column.why.startswith("data.") for column in found.values()):
        return None
    shown = ", ".join(f"{role} = {column.name}" for role, column in found.items() if column is not None)
    return f"{Path(path).name}: {shown}; `softgrpo check-data` shows all that is understood"
