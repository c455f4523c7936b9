"""Which column of a table holds what, by its name: the setting where it names one, else the first usual name that is there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softgrpo.config import DataConfig
from softgrpo.errors import DataError, nearest

Role = Literal["user", "item", "time", "rating"]
USUAL: dict[Role, tuple[str, ...]] = {
    "user": (
        *("user_id", "user", "uid", "reviewer_id", "customer_id", "visitor_id", "member_id", "account_id", "user_name"),
        *("session_id", "reviewer", "customer", "author_id"),
    ),
    "item": (
        *(
            "item_id",
            "item",
            "iid",
            "parent_asin",
            "asin",
            "movie_id",
            "product_id",
            "business_id",
            "book_id",
            "song_id",
        ),
        *("track_id", "article_id", "news_id", "video_id", "game_id", "artist_id", "isbn", "sku", "movie", "product"),
    ),
    "time": (
        *("timestamp", "time", "unix_review_time", "unix_time", "datetime", "date_time", "date", "ts", "event_time"),
        *("created_at", "created", "review_time", "rated_at", "time_stamp"),
    ),
    "rating": ("rating", "overall", "score", "stars", "stars_given", "rate"),
}
"""What columns are called, the more telling names first. Capitals, hyphens, blanks and underscores do not matter."""
SETTINGS: dict[Role, str] = {role: f"{role}_field" for role in USUAL}
ITEM_KEYS = (*USUAL["item"], "id")
TITLE_FIELDS = ("title", "movie_title", "app_name", "name", "product_title", "product_name", "item_name", "item_title")
GENRE_FIELDS = ("genres", "genre", "class", "categories", "category", "main_category")


@dataclass(frozen=True)
class Found:
    """A column that was found.

    Attributes:
        name: As the file has it.
        why: The setting that names it, or that it is a usual name.
    """

    name: str
    why: str


def plain(name: str) -> str:
    """Returns a name without what does not matter in it."""
    return re.sub(r"[\s_.-]", "", name.lower())


def first_usual(names: Iterable[str], usual: Iterable[str]) -> str | None:
    """Returns the column with the first of the usual names, None where there is none; an exact name goes before a similar one."""
    columns = tuple(names)
    similar = {plain(name): name for name in reversed(columns)}
    return next((name if name in columns else similar[plain(name)] for name in usual if plain(name) in similar), None)


def find_column(names: Iterable[str], role: Role, config: DataConfig) -> Found | None:
    """Returns the column of a role: the one of the setting, or, where the setting has its default, one with a usual name."""
    setting = SETTINGS[role]
    wanted, default = getattr(config, setting), DataConfig.model_fields[setting].default
    columns = tuple(names)
    if wanted is None:
        return None
    if wanted in columns:
        return Found(wanted, f"data.{setting}")
    usual = first_usual(columns, USUAL[role]) if wanted == default else None
    return None if usual is None else Found(usual, "a usual name")


def find_columns(path: Path, names: Iterable[str], config: DataConfig) -> dict[Role, Found]:
    """Returns the columns of a table of interactions: of the user, the item, the time and, where it is read, the rating.

    Args:
        path: The file, for the message.
        names: Its columns.
        config: What the settings name.

    Raises:
        DataError: One is missing.
    """
    columns = tuple(names)
    needed: list[Role] = ["user", "item"]
    needed += ["time"] if config.time_field is not None else []
    needed += ["rating"] if config.min_rating is not None else []
    found: dict[Role, Found] = {}
    for role in needed:
        column = find_column(columns, role, config)
        if column is None:
            raise _missing(path, columns, role, config)
        found[role] = column
    return found


def _missing(path: Path, names: tuple[str, ...], role: Role, config: DataConfig) -> DataError:
    setting = SETTINGS[role]
    wanted = getattr(config, setting)
    usual = ""
    if wanted == DataConfig.model_fields[setting].default:
        usual = f", and none has a usual name of the {role} ({', '.join(USUAL[role][:6])}, ...)"
    without = ", or to null where the order of the file is the order in time" if role == "time" else ""
    return _no_column(path, wanted, names, f"data.{setting}", usual, without)


def _no_column(
    path: Path, column: str, names: Collection[str], setting: str, further_rule: str = "", further_remedy: str = ""
) -> DataError:
    return DataError(
        f"{path} has no column '{column}'",
        f"the setting {setting} names a column of this file{further_rule}",
        f"Name a column so, or set --{setting} to one of its columns{further_remedy}. {nearest(column, names)}",
        code="DATA-005",
    )


def require_columns(path: Path, names: Collection[str], columns: Mapping[str, str]) -> None:
    """Checks that a table has the columns that settings name.

    Args:
        path: The file, for the message.
        names: Its columns.
        columns: Setting to column name.

    Raises:
        DataError: A column is missing; the message names the setting that chooses it.
    """
    for setting, column in columns.items():
        if column not in names:
            raise _no_column(path, column, names, setting)
