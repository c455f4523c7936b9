"""The outcomes of a user's earlier windows: how good each recaller's lists were. Legend: W windows, M recallers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import Windows
from softgrpo.errors import LeakageError

Floats = NDArray[np.float32]


def track_record(windows: Windows, ndcg: Floats, best_rank: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns the mean outcome of each user's earlier windows: NDCG (W, M), harmonic mean rank (W, M), count (W,).

    Windows come sorted by (user, time), and an outcome counts only if its last target lies inside the present history.

    Raises:
        LeakageError: The windows are not in time order, or overlap.
    """
    same_user = windows.user[1:] == windows.user[:-1]
    if (windows.user[1:] < windows.user[:-1]).any() or (same_user & (windows.end[:-1] > windows.start[1:])).any():
        raise LeakageError(
            "windows out of time order",
            "a track record holds only outcomes whose last target lies inside the present history",
            "Sort windows by user and start, without overlap",
            code="LEAKAGE-003",
        )
    first = np.concatenate([[True], ~same_user])
    start = np.maximum.accumulate(np.where(first, np.arange(len(windows)), 0))  # (W,) the user's first window
    return Outcomes.of(ndcg, best_rank).record(start, np.arange(len(windows)))


@dataclass(frozen=True)
class Outcomes:
    """Sums over the outcomes of windows: entry w is of all windows before window w.

    Attributes:
        ndcg: (W + 1, M) float64 sums of NDCG.
        inverse_rank: (W + 1, M) float64 sums of 1 / best rank.
    """

    ndcg: NDArray[np.float64]
    inverse_rank: NDArray[np.float64]

    @classmethod
    def of(cls, ndcg: Floats, best_rank: Floats) -> Outcomes:
        """Returns the sums of the outcomes (W, M) of all windows, sorted by user and time."""
        outcomes = (ndcg.astype(np.float64), 1.0 / best_rank.astype(np.float64))
        return cls(*(np.concatenate([np.zeros((1, each.shape[1])), np.cumsum(each, axis=0)]) for each in outcomes))

    def record(self, begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Returns the mean outcome of the windows `begin` to `end` (exclusive), (n,) each; see `track_record`."""
        count = end - begin

        def mean(total: NDArray[np.float64]) -> NDArray[np.float64]:
            with np.errstate(invalid="ignore"):
                between: NDArray[np.float64] = (total[end] - total[begin]) / np.where(count, count, np.nan)[:, None]
            return between

        inverse = mean(self.inverse_rank)
        with np.errstate(divide="ignore"):
            rank = np.where(inverse < 1e-9, np.inf, 1.0 / inverse)
        rank[count == 0] = np.nan
        return mean(self.ndcg).astype(np.float32), rank.astype(np.float32), count.astype(np.float32)
