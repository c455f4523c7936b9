"""Requests: histories of now with their candidate lists, described as the pipeline describes its windows.

Legend: B requests, M recallers, D depth, F numbers, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.config import FeaturesConfig, PromptConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.blocks.block import Known, UserVectors
from softgrpo.policy.catalogue import Catalogue
from softgrpo.policy.features import Features, Floats
from softgrpo.policy.numbers import WindowNumbers, name_and_compute
from softgrpo.policy.prompts import PromptFormatter, PromptParts
from softgrpo.policy.reference import Reference

TrackRecord = tuple[Floats, Floats, Floats]
"""Mean NDCG (B, M), harmonic mean rank (B, M) and number (B,) of the earlier windows; see `Features`."""


@dataclass(frozen=True)
class Requests:
    """B requests. Each is the one window of a user of its own.

    Attributes:
        corpus: The histories, oldest first; the user after the last request has one item without a time, so that an empty history
            is followed by something.
        windows: Request b is window b.
        lists: Candidate lists of the requests.
        record: How the recallers did for the same users before.
    """

    corpus: Corpus
    windows: Windows
    lists: CandidateLists
    record: TrackRecord

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def histories(self) -> list[NDArray[np.int32]]:
        """The history of each request."""
        return [self.corpus.sequence(request) for request in range(len(self))]

    @classmethod
    def of(
        cls,
        items: pd.DataFrame,
        users: pd.DataFrame,
        histories: Sequence[NDArray[np.int32]],
        times: Sequence[NDArray[np.float64]] | None,
        lists: CandidateLists,
        record: TrackRecord | None = None,
    ) -> Requests:
        """Returns requests.

        Args:
            items: All I items, see `Corpus.items`.
            users: B rows: what is known of who asks, see `Corpus.users`.
            histories: B arrays of item ids, oldest first, without repetition; empty ones are allowed.
            times: Of the same items; None where they are unknown.
            lists: Candidate lists of the B requests.
            record: Of the same users; None where there is none.
        """
        count, recallers = len(histories), len(lists.recallers)
        lengths = np.array([len(history) for history in histories], dtype=np.int64)
        unknown = np.full(int(lengths.sum()), np.nan)
        corpus = Corpus(
            users=users,
            items=items,
            user=np.repeat(np.arange(count + 1), np.append(lengths, 1)).astype(np.int32),
            item=np.concatenate([*histories, [0]]).astype(np.int32),
            time=np.append(unknown if times is None else np.concatenate([np.empty(0), *times]), np.nan),
            offsets=np.concatenate([[0], np.cumsum(np.append(lengths, 1))]).astype(np.int64),
        )
        windows = Windows(
            user=np.arange(count, dtype=np.int32),
            part=np.full(count, Part.TEST, dtype=np.int8),
            start=lengths.astype(np.int32),
            end=(lengths + 1).astype(np.int32),
            train_end=np.zeros(count + 1, dtype=np.int32),
        )
        missing = np.full((count, recallers), np.nan, dtype=np.float32)
        return cls(corpus, windows, lists, record or (missing, missing, np.zeros(count, dtype=np.float32)))


@dataclass(frozen=True)
class Described:
    """Requests with their numbers, and with their prompts where somebody asks for them.

    Attributes:
        requests: The B requests.
        features: Shape of their lists and their track record; `ndcg` and `best_rank`, the answers, are NaN.
        numbers: (B, F), as the run's gates and policies read them.
        catalogue: What prompts say of items.
    """

    requests: Requests
    features: Features
    numbers: WindowNumbers
    catalogue: Catalogue

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(B,) items in each history."""
        return self.requests.windows.start

    def prompts(self, config: PromptConfig) -> list[PromptParts]:
        """Returns the prompts of all requests.

        Args:
            config: What they contain, see `ExperimentConfig.told_prompt`.
        """
        asked = self.requests
        formatter = PromptFormatter(
            config, asked.corpus, asked.windows, asked.lists, self.features, self.numbers, self.catalogue
        )
        return [formatter.parts(request) for request in range(len(asked))]


@dataclass(frozen=True)
class Describer:
    """Describes requests by what a run stored.

    Attributes:
        reference: Of the run.
        catalogue: Of the run.
        config: Which blocks of numbers are on, see `ExperimentConfig.told_features`.
        embeddings: (I, d) of the items' texts, where the run has them.
    """

    reference: Reference
    catalogue: Catalogue
    config: FeaturesConfig
    embeddings: NDArray[np.float32] | None = None

    def __call__(self, requests: Requests, vectors: UserVectors | None = None) -> Described:
        """Returns requests with their numbers.

        Args:
            requests: What is asked.
            vectors: Reads the recallers' user vectors of these requests, where the run has that block.

        Raises:
            PolicyError: The lists are of other recallers, or the numbers are not those of the run.
        """
        reference, record = self.reference, requests.record
        if requests.lists.recallers != reference.recallers:
            raise PolicyError(
                f"lists of {', '.join(requests.lists.recallers)}",
                f"the run weighs {', '.join(reference.recallers)}, in that order",
                "Give one list of each, an empty one where there is none",
                code="POLICY-044",
            )
        strength, peak, overlap = reference.scale.shape(requests.lists)
        unknown = np.full_like(strength, np.nan)
        features = Features(unknown, unknown, strength, peak, overlap, *record)
        known = Known(
            requests.corpus,
            requests.windows,
            requests.lists,
            features,
            self.embeddings,
            vectors,
            popularity=reference.popularity,
            seconds=reference.seconds,
        )
        names, values = name_and_compute(known, self.config)
        if names != reference.names:
            raise PolicyError(
                f"{len(names)} numbers of a request: {', '.join(names)}",
                f"the run knows these {len(reference.names)}: {', '.join(reference.names)}",
                "Give what the run has: embeddings of the items, and the recallers' user vectors",
                code="POLICY-045",
            )
        return Described(requests, features, WindowNumbers(names, values, reference.cuts), self.catalogue)
