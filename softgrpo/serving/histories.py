"""Histories of now from a file, and lists from elsewhere, in the numbers of a run. Legend: B users, D depth, I items, n rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.config import DataConfig
from softgrpo.data.interactions import tie_hash
from softgrpo.data.streams import Shard, Stream
from softgrpo.data.usual import USUAL
from softgrpo.recallers.candidates import NO_ITEM

USER, ITEM, TIME, RATING, SCORE = "user", "item", "time", "rating", "score"


@dataclass(frozen=True)
class Histories:
    """What some users took.

    Attributes:
        users: B names, in the order of the file.
        items: B arrays of item ids of the run, oldest first, each item once.
        times: Of the same items; None where the file has none.
        strange: (B,) interactions with items that are not in the run's data; they are left out.
        unordered: Users whose rows were not in the order of their times, and have been sorted.
    """

    users: list[str]
    items: list[NDArray[np.int32]]
    times: list[NDArray[np.float64]] | None
    strange: NDArray[np.int64]
    unordered: int


@dataclass
class _Rows:
    """Rows of interactions as they come."""

    codes: dict[str, int] = field(default_factory=dict)
    user: list[NDArray[np.int64]] = field(default_factory=list)
    item: list[NDArray[np.int64]] = field(default_factory=list)
    time: list[NDArray[np.float64]] = field(default_factory=list)
    hash: list[NDArray[np.uint64]] = field(default_factory=list)

    def numbered(self, names: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the number of each user, new ones behind those that came before."""
        codes, different = pd.factorize(names)
        numbers = np.array([self.codes.setdefault(name, len(self.codes)) for name in different], dtype=np.int64)
        return numbers[codes] if len(codes) else np.empty(0, dtype=np.int64)


def open_history(path: Path, config: DataConfig) -> Stream:
    """Looks at a file of histories: user, item, and time if there is one. They have these names, those of the run's data set, or
    usual ones.

    Args:
        path: A file of any kind in `softgrpo.data.kinds`.
        config: Of the run.

    Raises:
        DataError: See `Stream.open`.
    """
    wanted = {USER: (USER, config.user_field, *USUAL["user"]), ITEM: (ITEM, config.item_field, *USUAL["item"])}
    wanted[TIME] = (TIME, config.time_field, *USUAL["time"]) if config.time_field is not None else (TIME,)
    if config.min_rating is not None and config.rating_field is not None:
        wanted[RATING] = (RATING, config.rating_field, *USUAL["rating"])
    return Stream.open(path, wanted, (USER, ITEM))


def read_histories(
    stream: Stream, shard: Shard, items: pd.Index, config: DataConfig, seed: int, wanted: Collection[str] | None = None
) -> Histories:
    """Reads the histories of a shard's users, as the run's data set was read: sorted, each item once, by the same rating.

    Args:
        stream: From `open_history`.
        shard: Whose histories are read.
        items: The names of the run's items, in their order.
        config: Of the run.
        seed: Of the run: of the order of equal times.
        wanted: Users; None takes all. One who is not in the file has an empty history.

    Raises:
        DataError: The file is damaged, or a row lacks its user or item, or its time is no number.
    """
    rows = _Rows()
    timed = TIME in stream.columns
    for numbers, table in stream.pieces(shard, USER):
        kept = np.ones(len(table), dtype=np.bool_) if wanted is None else table[USER].isin(wanted).to_numpy(bool)
        if RATING in stream.columns and config.min_rating is not None:
            kept &= stream.numbers(numbers, table[RATING], RATING) >= config.min_rating
        numbers, table = numbers[kept], table[kept]
        names = stream.names(numbers, table[ITEM], ITEM)
        rows.user.append(rows.numbered(table[USER].to_numpy(object)))
        rows.item.append(items.get_indexer(pd.Index(names, dtype=object)))
        if timed:
            rows.time.append(stream.times(numbers, table[TIME], TIME))
            if config.ties == "hash":
                rows.hash.append(tie_hash(table[USER], table[ITEM], seed))
    if wanted is not None:
        absent = np.array([name for name in wanted if name not in rows.codes], dtype=object)
        rows.numbered(absent[shard.holds(absent)])
    return _in_order(rows, timed)


def _in_order(rows: _Rows, timed: bool) -> Histories:
    """Returns the rows of each user in the order of their times, each item once."""
    count = len(rows.codes)
    user = np.concatenate([np.empty(0, np.int64), *rows.user])
    item = np.concatenate([np.empty(0, np.int64), *rows.item])
    time = np.concatenate([np.empty(0), *rows.time]) if timed else np.zeros(len(user))
    keys: list[NDArray[np.generic]] = [time, user]
    arrived = np.lexsort((user,))
    falls = (np.diff(time[arrived]) < 0) & (np.diff(user[arrived]) == 0)
    unordered = len(np.unique(user[arrived][1:][falls]))
    if rows.hash:
        keys.insert(0, np.concatenate(rows.hash))
    order = np.lexsort(keys)  # stable: equal keys stay in the order of the file
    user, item, time = user[order], item[order], time[order]
    strange = np.bincount(user[item < 0], minlength=count)
    again = pd.Series(user * (item.max(initial=0) + 1) + item).duplicated().to_numpy()
    kept = (item >= 0) & ~again
    ends = np.cumsum(np.bincount(user[kept], minlength=count))[:-1]
    return Histories(
        list(rows.codes),
        np.split(item[kept].astype(np.int32), ends) if count else [],
        (np.split(time[kept], ends) if count else []) if timed else None,
        strange,
        unordered,
    )


def open_lists(path: Path, config: DataConfig) -> Stream:
    """Looks at a file of lists from elsewhere: user, item and score, by these names or by those of the run's data set.

    Raises:
        DataError: See `Stream.open`.
    """
    wanted: dict[str, tuple[str, ...]] = {USER: (USER, config.user_field), ITEM: (ITEM, config.item_field)}
    wanted[SCORE] = (SCORE,)
    return Stream.open(path, wanted, (USER, ITEM, SCORE))


def read_lists(
    stream: Stream,
    shard: Shard,
    users: Sequence[str],
    histories: Sequence[NDArray[np.int32]],
    items: pd.Index,
    depth: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Reads the lists of some users, best first; equal scores by item id, as everywhere.

    Items that are not in the run's data, and those of the user's history, are left out; a repeated item counts where it is best.

    Args:
        stream: From `open_lists`.
        shard: That the users belong to.
        users: B names.
        histories: What they took.
        items: The names of the run's items, in their order.
        depth: D; of longer lists the best items are kept.

    Returns:
        Items (B, D), -1 behind a shorter list, and scores (B, D), NaN there.

    Raises:
        DataError: The file is damaged, or a row lacks its user or item, or its score is no number.
    """
    index = pd.Index(list(users), dtype=object)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for numbers, table in stream.pieces(shard, USER):
        user = index.get_indexer(pd.Index(table[USER], dtype=object))
        item = items.get_indexer(pd.Index(stream.names(numbers, table[ITEM], ITEM), dtype=object))
        score = stream.numbers(numbers, table[SCORE], SCORE)
        kept = user >= 0
        found.append((user[kept], item[kept], score[kept]))
    user, item, score = (np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*found, strict=True))
    return listed(user, item, score, histories, len(items), depth)


def listed(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    score: NDArray[np.float64],
    histories: Sequence[NDArray[np.int32]],
    size: int,
    depth: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Returns rows as lists, see `read_lists`.

    Args:
        user: (n,) numbers in 0..B-1, -1 for users that do not matter.
        item: (n,) item ids of the run, -1 for items that it does not know.
        score: (n,) finite.
        histories: What the B users took.
        size: I.
        depth: D.
    """
    kept = (user >= 0) & (item >= 0)
    user, item, score = user[kept].astype(np.int64), item[kept].astype(np.int64), score[kept]
    owners = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    taken = owners * size + np.concatenate([np.empty(0, np.int64), *histories])
    new = ~np.isin(user * size + item, taken)
    user, item, score = user[new], item[new], score[new]
    order = np.lexsort((item, -score, user))
    user, item, score = user[order], item[order], score[order]
    once = ~pd.Series(user * size + item).duplicated().to_numpy(bool)
    user, item, score = user[once], item[once], score[once]
    rank = np.arange(len(user)) - np.searchsorted(user, user)
    top = rank < depth
    items = np.full((len(histories), depth), NO_ITEM, dtype=np.int32)
    scores = np.full((len(histories), depth), np.nan, dtype=np.float32)
    items[user[top], rank[top]], scores[user[top], rank[top]] = item[top], score[top]
    return items, scores
