"""Candidate lists of now: the recallers that a run trained, asked about the histories of requests.

Legend: B requests, M recallers, D depth, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.common.names import TEXT
from softgrpo.common.records import CandidateLists, Corpus
from softgrpo.config import ExperimentConfig
from softgrpo.errors import CandidateError
from softgrpo.recallers.by_text import windows_at_a_time
from softgrpo.recallers.candidates import NO_ITEM, unseen_items
from softgrpo.serving.new_items import KnowsNoNewItem
from softgrpo.stages.stored_recallers import open_stored, open_text

NO_USER = "does not know the user"
NO_HISTORY = "knows no item of the history, or there is none"
NO_LIST = "has no list for the user"


class Recaller(Protocol):
    """A recaller that can be asked about any history; see `softgrpo.recallers.candidates.Scorer`."""

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """Scores every item of the corpus for B users, (B, I)."""


@dataclass(frozen=True)
class Lister:
    """Makes the lists of requests.

    Attributes:
        names: The M recallers, in pool order.
        recallers: Those that can be asked; the others' lists have to be given.
        known: What each of them knows of items, (I,).
        depth: D.
        batch_size: Requests that a recaller scores at a time.
    """

    names: tuple[str, ...]
    recallers: Mapping[str, Recaller]
    known: Mapping[str, NDArray[np.bool_]]
    depth: int
    batch_size: int

    def __call__(
        self,
        users: NDArray[np.int64],
        histories: Sequence[NDArray[np.int32]],
        given: Mapping[str, tuple[NDArray[np.int32], NDArray[np.float32]]] | None = None,
    ) -> CandidateLists:
        """Returns the lists of B requests.

        Args:
            users: (B,) user ids of the run, -1 for a user that is not in it.
            histories: B arrays of item ids of the run, oldest first.
            given: Lists from elsewhere by recaller, items and scores (B, D) each; they take the place of a recaller of that name.

        Raises:
            CandidateError: A recaller can neither be asked nor has its lists given.
        """
        lists = dict(given or {})
        missing = [name for name in self.names if name not in lists and name not in self.recallers]
        if missing:
            raise CandidateError(
                f"no lists of {', '.join(missing)}",
                "The run read this recaller from a file, so there is no model that could make lists of now",
                f"Give them: --lists {missing[0]}=FILE.parquet",
                code="CANDIDATE-016",
            )
        shape = (len(users), len(self.names), self.depth)
        items, scores = np.full(shape, NO_ITEM, dtype=np.int32), np.full(shape, np.nan, dtype=np.float32)
        for place, name in enumerate(self.names):
            own = lists[name] if name in lists else self._ask(name, users, histories)
            items[:, place], scores[:, place] = own
        return CandidateLists(self.names, items, scores)

    def _ask(
        self, name: str, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        size = len(self.known[name])
        step = windows_at_a_time(self.batch_size, size)
        parts = [
            unseen_items(self.recallers[name], users[at : at + step], histories[at : at + step], self.depth)
            for at in range(0, len(users), step)
        ]
        none = (np.empty((0, self.depth), np.int32), np.empty((0, self.depth), np.float32))
        return np.concatenate([none[0], *(part[0] for part in parts)]), np.concatenate(
            [none[1], *(part[1] for part in parts)]
        )

    def why_empty(self, name: str, user: int, given: bool) -> str:
        """Returns why a recaller has no list for a request.

        Args:
            name: The recaller.
            user: See `__call__`.
            given: Whether its lists came from elsewhere.
        """
        if given:
            return NO_LIST
        needs_user = getattr(self.recallers[name], "knows_users", False)
        return NO_USER if needs_user and user < 0 else NO_HISTORY

    def strange_items(self, name: str, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
        """Returns how many items of each history a recaller does not know, (B,)."""
        return np.array([int((~self.known[name][history]).sum()) for history in histories], dtype=np.int64)


def open_lister(
    config: ExperimentConfig,
    folders: Mapping[str, Path],
    corpus: Corpus,
    work: Path,
    without: Sequence[str] = (),
    new: int = 0,
) -> Lister:
    """Opens the recallers of a run.

    Args:
        config: Of the run.
        folders: Of the stages `recall-<recaller>`, and of `embed` where `Text` is in the pool.
        corpus: Of the run.
        work: A folder for what an adapter of `Text` makes of the embeddings.
        without: Recallers that are not needed, because their lists are given.
        new: Items after those of the corpus that only `Text` knows; `embed` has their embeddings too.
    """
    opened: dict[str, Recaller] = {}
    known: dict[str, NDArray[np.bool_]] = {}
    for name in config.recall.recallers:
        if name in config.recall.files or name in without:
            continue
        folder = folders[f"recall-{name}"] / "model"
        if name == TEXT:
            text = open_text(config, load_embeddings(folders["embed"] / EMBEDDINGS), folder, work)
            opened[name], known[name] = text, text.has_text
        else:
            opened[name], known[name] = open_stored(name, corpus, folder)
        if new and name != TEXT:
            opened[name] = KnowsNoNewItem(opened[name], corpus.num_items, new)
            known[name] = np.pad(known[name], (0, new))
    return Lister(config.recall.recallers, opened, known, config.recall.depth, config.recall.batch_size)
