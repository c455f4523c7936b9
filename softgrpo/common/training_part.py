"""What recallers train on: the first interactions of each user. Legend: N interactions, U users, I items."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import Corpus, Windows


def training_rows(corpus: Corpus, windows: Windows) -> Iterator[NDArray[np.int64]]:
    """Gives the places in 0..N-1 of the interactions that recallers may train on, those of some users at a time, ascending."""
    for users, rows in corpus.ranges():
        ends = corpus.offsets[:-1][users] + windows.train_end[users]
        own = np.arange(rows.start, rows.stop)
        yield own[own < np.repeat(ends, np.diff(corpus.offsets[users.start : users.stop + 1]))]


def training_counts(corpus: Corpus, windows: Windows) -> NDArray[np.int64]:
    """Returns how often each item occurs in what recallers may train on, (I,) int64."""
    counts = np.zeros(corpus.num_items, dtype=np.int64)
    for rows in training_rows(corpus, windows):
        counts += np.bincount(corpus.item[rows], minlength=corpus.num_items)
    return counts
