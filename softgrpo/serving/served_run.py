"""A finished run that answers requests: its recallers, one of its methods, its merge. Legend: B users, M recallers, K length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.policy.blocks.block import UserVectors
from softgrpo.serving.answers import Answerer, Answers, open_answerer
from softgrpo.serving.choice import method_key
from softgrpo.serving.current import Current
from softgrpo.serving.lister import Lister, open_lister
from softgrpo.serving.new_items import NewItems, without_new
from softgrpo.serving.recommended import Recommended
from softgrpo.serving.requests import Described, Requests
from softgrpo.serving.track_records import TrackRecords
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.user_vectors import VectorReader, load_vectors

GivenLists = Mapping[str, tuple[NDArray[np.int32], NDArray[np.float32]]]
"""Lists from elsewhere: recaller -> items and scores, (B, D) each."""


@dataclass(frozen=True)
class ServedRun:
    """A run ready to be asked.

    Attributes:
        config: Of the run.
        current: The users and items that are asked about: those of the run, or of its refit.
        answerer: The method.
        lister: The recallers.
        records: How the recallers did before.
        vectors: Reads the recallers' user vectors, where the run has that block.
        new_items: Items of a file that the run was not trained on; they come after all others.
    """

    config: ExperimentConfig
    current: Current
    answerer: Answerer
    lister: Lister
    records: TrackRecords
    vectors: VectorReader | None
    user_index: pd.Index
    item_index: pd.Index
    new_items: NewItems | None = None

    @classmethod
    def open(
        cls,
        config: ExperimentConfig,
        folders: Mapping[str, Path],
        method: str,
        work: Path,
        given: Sequence[str] = (),
        item_fields: Path | None = None,
    ) -> ServedRun:
        """Opens a run.

        Args:
            config: Of the run.
            folders: Of its stages.
            method: Key of a method, as in the table; `best` takes the one that validation windows chose.
            work: A folder for what an adapter of `Text` makes of the embeddings; it is needed as long as the run is asked.
            given: Recallers whose lists will be given.
            item_fields: A file of items with their texts; those that the run does not know can be recommended too.

        Raises:
            SoftGRPOError: The run stored no such method, or something is damaged; or see `NewItems.read`.
        """
        prepared = Prepared.of(config, folders)
        current = Current.of(prepared, folders)
        trained, new = current.corpus, None
        if item_fields is not None:
            new = NewItems.read(item_fields, config, trained.items)
            if len(new):
                new.write_embeddings(config, folders["embed"], work)
                folders, current = {**folders, "embed": work}, current.with_items(new.items)
        corpus = current.corpus
        return cls(
            config,
            current,
            open_answerer(prepared, folders, method_key(folders, config.fusion.k, method), current),
            open_lister(config, folders, trained, work, given, corpus.num_items - trained.num_items),
            TrackRecords.of(current.sequences(prepared.corpus), prepared.windows, prepared.features),
            load_vectors(config, folders, trained, prepared.data),
            pd.Index(corpus.users[Columns.Token], dtype=object),
            pd.Index(corpus.items[Columns.Token], dtype=object),
            new,
        )

    @property
    def corpus(self) -> Corpus:
        """The users and items that are asked about."""
        return self.current.corpus

    @property
    def trained_items(self) -> int:
        """How many of the items the run, or its refit, knows; new ones come after them."""
        return self.corpus.num_items - (0 if self.new_items is None else len(self.new_items))

    def recommend(
        self,
        users: Sequence[str],
        histories: Sequence[NDArray[np.int32]],
        times: Sequence[NDArray[np.float64]] | None,
        k: int,
        given: GivenLists | None = None,
        strange: NDArray[np.int64] | None = None,
        fields: pd.DataFrame | None = None,
    ) -> Recommended:
        """Recommends to B users.

        Args:
            users: Their names; those that the run does not know are new users.
            histories: B arrays of item ids of the run, oldest first, each item once.
            times: Of the same items; None where they are unknown.
            k: K.
            given: Lists from elsewhere.
            strange: (B,) items of each history that are not in the run's data and were left out.
            fields: B rows of what is known of the users now, some of the run's fields as text; "" leaves what the run knows.

        Raises:
            SoftGRPOError: K is too large, or a list is missing.
        """
        numbers = self.user_index.get_indexer(pd.Index(list(users), dtype=object))
        requests = self._requests(numbers, histories, times, given, fields)
        vectors = self._vectors(numbers, histories)
        answers = self.answerer(requests, k, vectors)
        without = [self._without(answers.empty[row], int(numbers[row]), given or {}) for row in range(len(users))]
        table = {
            Columns.User: list(users),
            "weights": answers.method,
            "reason": answers.reason,
            "without": without,
            "unknown_items": np.zeros(len(users), np.int64) if strange is None else strange,
        }
        weights = {f"weight_{name}": answers.weights[:, place] for place, name in enumerate(self.answerer.recallers)}
        return Recommended(pd.DataFrame(table | weights), self._items(users, answers), self.answerer.recallers)

    def describe(
        self,
        users: Sequence[str],
        histories: Sequence[NDArray[np.int32]],
        times: Sequence[NDArray[np.float64]] | None,
        given: GivenLists | None = None,
        fields: pd.DataFrame | None = None,
    ) -> Described:
        """Returns the numbers and prompts of B users; arguments as of `recommend`."""
        numbers = self.user_index.get_indexer(pd.Index(list(users), dtype=object))
        requests = self._requests(numbers, histories, times, given, fields)
        return self.answerer.describe(requests, self._vectors(numbers, histories))

    def _requests(
        self,
        users: NDArray[np.int64],
        histories: Sequence[NDArray[np.int32]],
        times: Sequence[NDArray[np.float64]] | None,
        given: GivenLists | None,
        fields: pd.DataFrame | None,
    ) -> Requests:
        """Returns the requests of users by their numbers, with their lists, track records and fields."""
        lists = self.lister(users, histories, given)
        known = self.corpus.users.iloc[np.maximum(users, 0)].reset_index(drop=True)
        known = known.mask(pd.Series(users < 0), "")  # nothing is known of a new user, unless somebody tells
        if fields is not None:
            told = fields.reset_index(drop=True)
            known[told.columns] = told.where(told != "", known[told.columns])
        record = self.records(self.current.in_run(users), histories)
        return Requests.of(self.corpus.items, known, histories, times, lists, record)

    def _vectors(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> UserVectors | None:
        """Returns what reads the recallers' user vectors of requests, None where the run has no such block."""
        if (reader := self.vectors) is None:
            return None

        def read(corpus: Corpus, windows: Windows) -> Mapping[str, NDArray[np.float32]]:
            return reader.read(
                users, without_new(histories, self.trained_items)
            )  # of the run's own users, not of those that stand for requests

        return read

    def _without(self, empty: NDArray[np.bool_], user: int, given: GivenLists) -> str:
        """Returns which recallers have no list for a request, and why."""
        names = [name for name, none in zip(self.lister.names, empty, strict=True) if none]
        return "; ".join(f"{name} {self.lister.why_empty(name, user, name in given)}" for name in names)

    def _items(self, users: Sequence[str], answers: Answers) -> pd.DataFrame:
        user, place = np.nonzero(answers.items >= 0)
        items, shares = self.corpus.items, answers.shares[user, place]
        chosen = answers.items[user, place]
        table: dict[str, Any] = {
            Columns.User: np.asarray(users, dtype=object)[user],
            "rank": (place + 1).astype(np.int32),
            Columns.Item: items[Columns.Token].to_numpy(object)[chosen],
            Columns.Title: items[Columns.Title].to_numpy(object)[chosen],
            Columns.Score: answers.scores[user, place],
        }
        names = self.answerer.recallers
        return pd.DataFrame(table | {f"from_{name}": shares[:, index] for index, name in enumerate(names)})
