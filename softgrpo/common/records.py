"""Small frozen results that stages exchange. Legend: U users, I items, N interactions, W windows, M recallers, D depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Part(IntEnum):
    """Which part of a user's sequence a window's targets lie in, in time order; `EARLIER` lies before all others."""

    RECORD = 0
    POLICY = 1
    VALID = 2
    TEST = 3
    EARLIER = 4
    """The end of the recaller part: policy windows that `split.cross_fit` adds, see `softgrpo.data.cross_fit`."""


SPLIT_PARTS = (Part.RECORD, Part.POLICY, Part.VALID, Part.TEST)
"""The parts that every split has."""
LEARNT_FROM = (Part.POLICY, Part.EARLIER)
"""The parts whose windows weights are learnt from, window by window."""
RANGE = 2**20
"""Interactions that are looked at at a time by what looks at all of them."""


@dataclass(frozen=True)
class Corpus:
    """All interactions after filtering, sorted by (user, time order).

    Attributes:
        users: One row per user, row number = user id 0..U-1; column `token` and the user's fields as text.
        items: One row per item, row number = item id 0..I-1; columns `token`, `title`, `genres` ("" where unknown).
        user: (N,) int32 user id.
        item: (N,) int32 item id.
        time: (N,) float64 time stamp in the file's own unit; all NaN where the file has none.
        offsets: (U+1,) int64; the sequence of user u is `item[offsets[u]:offsets[u + 1]]`.
    """

    users: pd.DataFrame
    items: pd.DataFrame
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    offsets: NDArray[np.int64]

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.items)

    def sequence(self, user: int) -> NDArray[np.int32]:
        """Returns the items of one user in time order, (n,)."""
        return self.item[self.offsets[user] : self.offsets[user + 1]]

    def of_users(self, first: int, end: int) -> Corpus:
        """Returns the interactions of the users `first` to `end` (exclusive) alone, who are numbered from 0 on."""
        begin, stop = self.offsets[first], self.offsets[end]
        return Corpus(
            users=self.users.iloc[first:end].reset_index(drop=True),
            items=self.items,
            user=self.user[begin:stop] - np.int32(first),
            item=self.item[begin:stop],
            time=self.time[begin:stop],
            offsets=self.offsets[first : end + 1] - begin,
        )

    def ranges(self) -> Iterator[tuple[slice, slice]]:
        """Gives the users some at a time, and where their interactions are: about `RANGE` of these, and at least one user."""
        first = 0
        while first < self.num_users:
            last = max(first + 1, int(np.searchsorted(self.offsets, self.offsets[first] + RANGE, "right")) - 1)
            yield slice(first, last), slice(int(self.offsets[first]), int(self.offsets[last]))
            first = last

    @property
    def is_timed(self) -> bool:
        """Whether every interaction has a time."""
        return not any(np.isnan(self.time[rows]).any() for _, rows in self.ranges())


@dataclass(frozen=True)
class Windows:
    """Prediction windows: the next items after a position of a user's sequence.

    The history of window w is `sequence(user[w])[:start[w]]`, its targets `sequence(user[w])[start[w]:end[w]]`.

    Attributes:
        user: (W,) int32.
        part: (W,) int8, a `Part`.
        start: (W,) int32, position in the user's sequence.
        end: (W,) int32, exclusive, greater than `start`.
        train_end: (U,) int32; recallers may train on `sequence(u)[:train_end[u]]` and on nothing else. The recallers of the windows
            `EARLIER` have other ends, which `softgrpo.data.cross_fit` gives.
    """

    user: NDArray[np.int32]
    part: NDArray[np.int8]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    train_end: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.user)

    def of(self, *parts: Part) -> NDArray[np.int64]:
        """Returns the window numbers of one part or of several, (w,) int64, ascending."""
        return np.flatnonzero(np.isin(self.part, parts))

    def at(self, rows: NDArray[np.int64] | slice) -> Windows:
        """Returns some of the windows, in the order asked for."""
        return replace(self, user=self.user[rows], part=self.part[rows], start=self.start[rows], end=self.end[rows])

    def of_users(self, first: int, end: int) -> Windows:
        """Returns windows of the users `first` to `end` (exclusive) alone, numbered as `Corpus.of_users` does."""
        return replace(self, user=self.user - np.int32(first), train_end=self.train_end[first:end])


@dataclass(frozen=True)
class CandidateLists:
    """Ranked candidate lists of M recallers for W windows; the lists may be shorter than D.

    Attributes:
        recallers: The M names, in pool order.
        items: (W, M, D) int32 item ids, best first, -1 behind the end of a shorter list.
        scores: (W, M, D) float32, descending, NaN behind the end of a shorter list.
    """

    recallers: tuple[str, ...]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]

    @property
    def depth(self) -> int:
        """D."""
        return int(self.items.shape[2])

    def rows(self, rows: NDArray[np.int64] | slice) -> CandidateLists:
        """Returns the lists of some windows, in the order asked for."""
        return CandidateLists(self.recallers, self.items[rows], self.scores[rows])


class ListSource(Protocol):
    """Candidate lists of W windows, in memory or in a file."""

    @property
    def recallers(self) -> tuple[str, ...]:
        """The M names, in pool order."""

    @property
    def depth(self) -> int:
        """D."""

    def rows(self, rows: NDArray[np.int64]) -> CandidateLists:
        """Returns the lists of some windows, in the order asked for."""
