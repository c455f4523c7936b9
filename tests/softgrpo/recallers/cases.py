"""A tiny world: two groups of users who walk through their own items in cycles, so that the next item is predictable."""

from __future__ import annotations

import numpy as np
import pandas as pd

from softgrpo.common.records import Corpus, Windows

USERS, ITEMS, LENGTH, TRAIN = 24, 20, 8, 6


def corpus_of(sequences: list[list[int]], num_items: int) -> Corpus:
    """Returns a corpus with the given item sequences."""
    lengths = [len(sequence) for sequence in sequences]
    item = np.array([item for sequence in sequences for item in sequence], dtype=np.int32)
    return Corpus(
        users=pd.DataFrame({"token": [f"u{number}" for number in range(len(sequences))]}),
        items=pd.DataFrame({"token": [f"i{number}" for number in range(num_items)], "title": "", "genres": ""}),
        user=np.repeat(np.arange(len(sequences), dtype=np.int32), lengths),
        item=item,
        time=np.arange(len(item), dtype=np.float64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def windows_of(starts: list[tuple[int, int, int]], train_end: list[int]) -> Windows:
    """Returns windows from (user, start, end), all of the same part."""
    user, start, end = np.array(starts, dtype=np.int32).T
    part = np.ones(len(starts), dtype=np.int8)
    return Windows(user=user, part=part, start=start, end=end, train_end=np.array(train_end, dtype=np.int32))


def cycles() -> tuple[Corpus, Windows]:
    """24 users with 8 items each, 6 of them for training; even users walk through items 0..9, odd ones through 10..19.

    Item ITEMS (the last one) only occurs behind the training part of user 0, so that no recaller knows it.
    """
    sequences = [[(user // 2 + step) % 10 + 10 * (user % 2) for step in range(LENGTH)] for user in range(USERS)]
    sequences[0][-1] = ITEMS
    corpus = corpus_of(sequences, ITEMS + 1)
    return corpus, windows_of([(user, TRAIN, LENGTH) for user in range(USERS)], [TRAIN] * USERS)
