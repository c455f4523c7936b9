"""Paired comparisons over users: bootstrap intervals, p-values, Holm's correction. Legend: U users, R comparisons, W windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS = 2**24  # (draw, user) cells at a time: 0.13 GB
_DRAWN = 2**16  # of them are drawn at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Bootstrap:
    """Result of a paired bootstrap, each (R,) float64.

    Attributes:
        mean: Mean difference over users.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p: Two-sided p-value of "the mean difference is 0", not corrected.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p: NDArray[np.float64]


def per_user(values: NDArray[np.float64], users: NDArray[np.integer]) -> NDArray[np.float64]:
    """Averages the windows of each user.

    Args:
        values: (W,) or (W, R).
        users: (W,) user ids.

    Returns:
        (U,) or (U, R), users in ascending order of id.
    """
    _, row = np.unique(users, return_inverse=True)
    counts = np.bincount(row)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, row, values)
    sums /= counts.reshape(-1, *[1] * (values.ndim - 1))
    return sums


def smallest_p(tests: int, draws: int) -> float:
    """Returns the smallest p-value that a number of draws allows once it is corrected over a number of tests."""
    return 2 * tests / (draws + 1)


def is_bound(p: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Tells which corrected p-values are bounds: as small as the draws allow, so that more draws could show smaller ones.

    Args:
        p: Corrected p-values, NaN where nothing was tested.
        least: See `smallest_p`.
    """
    bound: NDArray[np.bool_] = (p <= least * (1 + 1e-9)) & (p < 1)
    return bound


def paired_bootstrap(differences: NDArray[np.float64], draws: int, confidence: float, seed: int) -> Bootstrap:
    """Resamples users with replacement, the same draws for all comparisons.

    Percentile interval (Efron and Tibshirani 1993, chapter 13). The p-value inverts it: twice the smaller share of draws whose
    mean is at most 0 or at least 0, with one added to both counts (Davison and Hinkley 1997, section 4.2), at most 1.

    Args:
        differences: (U,) or (U, R) one value per user and comparison, windows (and seeds) averaged before.
        draws: Number of resamples.
        confidence: Level of the interval, in (0, 1).
        seed: Of the resamples.
    """
    table = differences.reshape(len(differences), -1)
    users = len(table)
    generator = np.random.default_rng(seed)
    step, few = (max(1, cells // users) for cells in (_CELLS, _DRAWN))
    means = []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        counts = np.empty((size, users))
        for first in range(0, size, few):
            own = counts[first : first + few]
            sampled = generator.integers(users, size=own.shape, dtype=np.int32) + np.arange(len(own))[:, None] * users
            own[:] = np.bincount(sampled.ravel(), minlength=own.size).reshape(own.shape)
        means.append(counts @ table / users)
    drawn = np.concatenate(means)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    smaller = np.minimum((drawn <= 0).sum(0), (drawn >= 0).sum(0))
    return Bootstrap(table.mean(0), low, high, np.minimum(1.0, 2 * (smaller + 1) / (draws + 1)))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns p-values corrected for the number of comparisons (Holm 1979), (R,); a comparison with NaN is not counted."""
    corrected = np.full(len(p), np.nan)
    counted = np.flatnonzero(~np.isnan(p))
    order = counted[np.argsort(p[counted], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected
