"""What a block of numbers is, and all that blocks may read.

Legend: W windows, M recallers, D depth, I items, d components of an embedding, N interactions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.policy.features import Features

TOP = 10
"""How many first items of a list blocks look at."""
CHUNK = 1024
"""Windows that are computed at a time; what is held is a small multiple of their lists."""

Numbers = Mapping[str, NDArray[np.float32] | NDArray[np.float64]]
"""What people call a number -> its values, (W, M) where each recaller has one and (W,) where the window has."""
UserVectors = Callable[[Corpus, Windows], Mapping[str, NDArray[np.float32]]]
"""Gives what recallers hold about the user of each of W windows: recaller -> (W, n). Each window's follows from its user and its
history alone."""


@dataclass(frozen=True)
class Known:
    """What blocks read of W windows. Of the corpus they read what lies before each window, or in the recallers' training part.

    Attributes:
        corpus: All interactions.
        windows: The windows.
        lists: Their candidate lists.
        features: Their features; `ndcg` and `best_rank` are the answers and not read.
        embeddings: (I, d) of the items' texts, of unit length, zeros for an item without a text; None where there are none.
        vectors: Reads the recallers' own user vectors; None where no recaller has one, or nobody asked for them.
        popularity: (I,) how often each item occurs in the recallers' training part; None counts it in the corpus.
        elsewhere: (I,) what that count lacks, of users who are not in the corpus; None where it holds all of them.
        seconds: Whether times are seconds since 1970; None looks at the corpus. Requests bring both of the run that they ask.
    """

    corpus: Corpus
    windows: Windows
    lists: CandidateLists
    features: Features
    embeddings: NDArray[np.float32] | None = None
    vectors: UserVectors | None = None
    popularity: NDArray[np.int64] | None = None
    elsewhere: NDArray[np.int64] | None = None
    seconds: bool | None = None

    def of(self, rows: NDArray[np.int64]) -> Known:
        """Returns what is known of some of the windows, in the order asked for."""
        lists = self.lists
        return replace(
            self,
            windows=self.windows.at(rows),
            lists=replace(lists, items=lists.items[rows], scores=lists.scores[rows]),
            features=Features(**{name: values[rows] for name, values in vars(self.features).items()}),
        )


@dataclass(frozen=True)
class Block:
    """Numbers that belong together and are switched together.

    Attributes:
        name: As in the section `features`.
        compute: Gives its numbers. Each window's follow from that window alone.
        told: Those of its numbers that a prompt tells, and by which words.
        needs: What of `Known` it exists only with, "" where it always exists.
    """

    name: str
    compute: Callable[[Known], Numbers]
    told: Mapping[str, str]
    needs: Literal["", "embeddings", "vectors"] = ""

    def exists(self, known: Known) -> bool:
        """Tells whether there is what it needs."""
        return not self.needs or getattr(known, self.needs) is not None


def of_recaller(recaller: str, name: str) -> str:
    """Returns what people call a number of one recaller."""
    return f"{recaller}: {name}"


def chunks(count: int) -> Iterator[slice]:
    """Gives slices that cover `count` windows."""
    for begin in range(0, count, CHUNK):
        yield slice(begin, begin + CHUNK)


def latest(known: Known, count: int) -> NDArray[np.int64]:
    """Returns where the latest items of each history are among all interactions, newest first.

    Args:
        known: What is known of W windows.
        count: How many items at most.

    Returns:
        (W, count) places in 0..N-1, -1 behind the oldest item.
    """
    start = known.windows.start[:, None].astype(np.int64)
    age = np.arange(count)
    return np.where(age < start, known.corpus.offsets[known.windows.user][:, None] + start - 1 - age, -1)
