"""How the recallers did for a user before now: the outcomes of those of the run's windows that lie inside a history.

Legend: B requests, M recallers, U users, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import Corpus, Windows
from softgrpo.policy.features import Features
from softgrpo.policy.track_record import Outcomes
from softgrpo.serving.requests import TrackRecord


@dataclass(frozen=True)
class TrackRecords:
    """The outcomes of all windows of a run.

    Attributes:
        corpus: Of the run, with the items' numbers of now, see `softgrpo.serving.current`.
        windows: Of the run, sorted by user and time.
        outcomes: Of the windows.
    """

    corpus: Corpus
    windows: Windows
    outcomes: Outcomes

    @classmethod
    def of(cls, corpus: Corpus, windows: Windows, features: Features) -> TrackRecords:
        """Returns the outcomes that a run stored."""
        return cls(corpus, windows, Outcomes.of(features.ndcg, features.best_rank))

    def __call__(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> TrackRecord:
        """Returns the track records of B requests.

        A window counts if its targets are part of the history: the history must begin as the user's sequence in the run does, up
        to the window's last target.

        Args:
            users: (B,) user ids of the run, -1 for a user that is not in it.
            histories: B arrays of item ids of now, oldest first.
        """
        begin, behind = (np.searchsorted(self.windows.user, users, side) for side in ("left", "right"))
        end = begin.copy()
        for request in np.flatnonzero(behind > begin).tolist():
            shared = _shared(histories[request], self.corpus.sequence(int(users[request])))
            ends = self.windows.end[begin[request] : behind[request]]
            end[request] += np.searchsorted(ends, shared, "right")
        return self.outcomes.record(begin, end)


def _shared(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Returns how many first items two sequences have in common."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
