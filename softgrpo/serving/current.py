"""Who and what a run is asked about: its own users and items or, of a refit, those of the data set at that time.

A run's methods, numbers and lists know users and items by the run's numbers; here those become the numbers of now.
Legend: U users and I items of now, V users and J items of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.names import SNAPSHOT_NODE
from softgrpo.common.records import Corpus
from softgrpo.common.training_part import training_counts
from softgrpo.data.corpus import load_corpus
from softgrpo.recallers.candidates import NO_ITEM
from softgrpo.stages.inputs import Prepared


@dataclass(frozen=True)
class Current:
    """The users and items of now.

    Attributes:
        corpus: Theirs.
        popularity: (I,) int64 how often each item occurs in what the recallers trained on.
        users: (U,) number in the run of each user, -1 for one that it does not know.
        items: (J,) number now of each item of the run.
    """

    corpus: Corpus
    popularity: NDArray[np.int64]
    users: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def of(cls, prepared: Prepared, folders: Mapping[str, Path]) -> Current:
        """Returns the users and items that a run, or its refit, answers about.

        Args:
            prepared: Output of the run's stages `split` and `data`.
            folders: Of all stages; a refit has `snapshot`.
        """
        run = prepared.corpus
        if SNAPSHOT_NODE not in folders:
            own = np.arange(run.num_users), np.arange(run.num_items, dtype=np.int32)
            return cls(run, training_counts(run, prepared.windows), *own)
        now = load_corpus(folders[SNAPSHOT_NODE])
        users = _places(run.users, now.users)
        items = _places(now.items, run.items).astype(np.int32)
        return cls(now, np.bincount(now.item, minlength=now.num_items), users, items)

    def with_items(self, items: pd.DataFrame) -> Current:
        """Returns the same with more items after the others, of which nothing was trained on.

        Args:
            items: See `Corpus.items`.
        """
        corpus = replace(self.corpus, items=pd.concat([self.corpus.items, items], ignore_index=True))
        return replace(self, corpus=corpus, popularity=np.pad(self.popularity, (0, len(items))))

    def listed(self, items: NDArray[np.int32]) -> NDArray[np.int32]:
        """Returns the numbers now of items in a run's lists, of any shape; -1 stays."""
        return np.where(items == NO_ITEM, NO_ITEM, self.items[items]).astype(np.int32)

    def sequences(self, corpus: Corpus) -> Corpus:
        """Returns the run's sequences, of the run's users, with the items' numbers of now."""
        if np.array_equal(self.items, np.arange(len(self.items))):
            return corpus
        return replace(corpus, item=self.items[corpus.item])

    def in_run(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the numbers in the run of users by their numbers now; -1 for those that it does not know, and for -1."""
        return np.where(users < 0, -1, self.users[users])


def _places(index: pd.DataFrame, wanted: pd.DataFrame) -> NDArray[np.int64]:
    """Returns where the tokens of one table are in another, -1 where they are not."""
    places = pd.Index(index[Columns.Token], dtype=object).get_indexer(pd.Index(wanted[Columns.Token], dtype=object))
    return np.asarray(places, dtype=np.int64)
