"""What is known about a window before its targets: shape and overlap of the lists, and the recallers' track record.

Numbers here are what prompts put into words; gates without a language model read them as they are.
Legend: W windows, M recallers, D depth, T targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from softgrpo.common.mapped import open_mapped
from softgrpo.common.records import LEARNT_FROM, CandidateLists, ListSource, Windows
from softgrpo.errors import LeakageError

Floats = NDArray[np.float32]
CHUNK = 4096


@dataclass(frozen=True)
class Features:
    """Numbers per window and recaller; NaN where a number does not exist.

    Attributes:
        ndcg: (W, M) NDCG@k of the recaller's own list for the window's targets; the label, never shown for its own window.
        best_rank: (W, M) best rank of a target in the recaller's list, 1-based, inf without a hit; likewise.
        strength: (W, M) in [0, 1]: size of the best score, as its quantile among this recaller's policy windows.
        peak: (W, M) in [0, 1]: lead of the first over the k-th score relative to the whole range, as such a quantile.
        overlap: (W, M) in [0, 1]: mean share of the recaller's first k items that another recaller has among its first k.
        track_ndcg: (W, M) mean `ndcg` over this user's earlier windows; NaN without one.
        track_rank: (W, M) harmonic mean of `best_rank` over them, inf if none was hit; NaN without one.
        track_count: (W,) number of earlier windows.
    """

    ndcg: Floats
    best_rank: Floats
    strength: Floats
    peak: Floats
    overlap: Floats
    track_ndcg: Floats
    track_rank: Floats
    track_count: Floats


def own_ranks(items: NDArray[np.int32], targets: NDArray[np.int32]) -> Floats:
    """Returns the 1-based rank of each target in each recaller's own list, inf where it is not in the list or padding.

    Args:
        items: (W, M, D).
        targets: (W, T), -1 behind the last.

    Returns:
        (W, M, T) float32.
    """
    ranks = np.full((*items.shape[:2], targets.shape[1]), np.inf, dtype=np.float32)
    for begin in range(0, len(items), CHUNK):
        part = slice(begin, begin + CHUNK)
        window_targets = np.where(targets[part] < 0, -2, targets[part])  # padding of the lists is -1
        hits = items[part][:, :, :, None] == window_targets[:, None, None, :]  # (w, M, D, T)
        ranks[part] = np.where(hits.any(2), hits.argmax(2) + 1, np.inf)
    return ranks


def own_ndcg(ranks: Floats, num_targets: NDArray[np.int64], k: int) -> Floats:
    """Returns NDCG@k of each recaller's own list, (W, M): binary gains, ideal over min(k, targets).

    The formula is that of `softgrpo.ranking.metrics.ndcg`, and a test holds the two together. This one adds up in float32: labels
    and prompts are made of its numbers, and those of another rounding would be other numbers in the last digit.

    Args:
        ranks: (W, M, T) from `own_ranks`.
        num_targets: (W,) at least 1.
        k: Cut-off.
    """
    gains: NDArray[np.float64] = np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0).sum(2)
    ideal = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))
    ndcg: Floats = (gains / ideal[np.minimum(num_targets, k) - 1][:, None]).astype(np.float32)
    return ndcg


def _ascending(values: Floats) -> tuple[Floats, ...]:
    """Returns the known values of each column (w, M) in ascending order."""
    return tuple(np.sort(column[~np.isnan(column)]) for column in values.T)


def _quantiles(values: Floats, known: Sequence[Floats]) -> Floats:
    """Returns the quantile in [0, 1] of each value (W, M) among the ascending known ones of its recaller; NaN stays NaN."""
    result = np.full(values.shape, np.nan, dtype=np.float32)
    for recaller, ascending in enumerate(known):
        column = values[:, recaller]
        here = ~np.isnan(column)
        middle = np.searchsorted(ascending, column[here], "left") + np.searchsorted(ascending, column[here], "right")
        result[here, recaller] = middle / (2.0 * max(len(ascending), 1))
    return result


@dataclass(frozen=True)
class ListScale:
    """What the shape of a list is compared with: the lists of the policy windows, of each recaller.

    Attributes:
        strength: M arrays, ascending: first scores.
        peak: M arrays, ascending: leads of the first over the k-th score.
        k: Cut-off of the lead and of the overlap.
    """

    strength: tuple[Floats, ...]
    peak: tuple[Floats, ...]
    k: int

    @classmethod
    def of(cls, lists: ListSource, rows: NDArray[np.int64], k: int) -> ListScale:
        """Returns the scale by the lists of some windows, which are read some at a time."""
        blocks = (lists.rows(rows[first : first + CHUNK]) for first in range(0, max(len(rows), 1), CHUNK))
        parts = [_first_and_lead(own.items, own.scores, k) for own in blocks]
        first, lead = map(np.concatenate, zip(*parts, strict=True))
        return cls.by(first, lead, k)

    @classmethod
    def by(cls, first: Floats, lead: Floats, k: int) -> ListScale:
        """Returns the scale by first scores and leads of some windows, (w, M) each."""
        return cls(_ascending(first), _ascending(lead), k)

    def shape(self, lists: CandidateLists) -> tuple[Floats, Floats, Floats]:
        """Returns strength, peak and overlap of any lists, (W, M) each; see `Features`."""
        strength, peak = self.quantiles(*_first_and_lead(lists.items, lists.scores, self.k))
        return strength, peak, _overlap(lists.items, self.k)

    def quantiles(self, first: Floats, lead: Floats) -> tuple[Floats, Floats]:
        """Returns strength and peak of first scores and leads, (W, M) each."""
        return _quantiles(first, self.strength), _quantiles(lead, self.peak)


def _first_and_lead(items: NDArray[np.int32], scores: Floats, k: int) -> tuple[Floats, Floats]:
    """Returns the first score and its lead over the k-th, relative to the whole range, (W, M) each; NaN for an empty list."""
    filled = (items >= 0).sum(2)  # (W, M)
    last = np.take_along_axis(scores, np.maximum(filled - 1, 0)[:, :, None], 2)[:, :, 0]
    kth = np.take_along_axis(scores, np.clip(filled - 1, 0, k - 1)[:, :, None], 2)[:, :, 0]
    spread = scores[:, :, 0] - last
    with np.errstate(invalid="ignore", divide="ignore"):
        lead = np.where(spread > 0, (scores[:, :, 0] - kth) / spread, 0.0).astype(np.float32)
    lead[filled == 0] = np.nan
    return scores[:, :, 0], lead


def _overlap(items: NDArray[np.int32], k: int) -> Floats:
    tops = items[:, :, :k]
    count = tops.shape[1]
    result = np.zeros(tops.shape[:2], dtype=np.float32)
    filled = np.maximum((tops >= 0).sum(2), 1)  # (W, M): shorter lists have fewer than k
    for begin in range(0, len(tops), CHUNK):
        part = tops[begin : begin + CHUNK]
        for one in range(count):
            for other in range(count):
                if one != other:
                    same = (part[:, one, :, None] == part[:, other, None, :]) & (part[:, one, :, None] >= 0)
                    result[begin : begin + CHUNK, one] += same.any(2).sum(1)
    share: Floats = np.asarray(result / (filled * max(count - 1, 1)), dtype=np.float32)
    return share


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


def make_features(lists: CandidateLists, windows: Windows, targets: NDArray[np.int32], k: int) -> Features:
    """Computes all features.

    Args:
        lists: Candidate lists of all windows.
        windows: All windows whose lists come from the same recallers.
        targets: (W, T), -1 behind the last.
        k: Cut-off of NDCG, peak and overlap.
    """
    return features_of_blocks([lists], windows, targets, k)


def features_of_blocks(
    blocks: Iterable[CandidateLists], windows: Windows, targets: NDArray[np.int32], k: int
) -> Features:
    """Computes all features from the lists of some windows at a time; `make_features` says what they are.

    Args:
        blocks: Candidate lists of all windows, one block of windows behind the other.
        windows: See `make_features`.
        targets: See `make_features`.
        k: See `make_features`.
    """
    found: NDArray[np.float32] | None = (
        None  # (5, W, M): small results that are kept between freed blocks make the heap grow
    )
    begin = 0
    for lists in blocks:
        part = slice(begin, begin + len(lists.items))
        if found is None:
            found = np.empty((5, len(windows), len(lists.recallers)), dtype=np.float32)
        ranks = own_ranks(lists.items, targets[part])
        found[0, part] = own_ndcg(ranks, (targets[part] >= 0).sum(1), k)
        found[1, part] = ranks.min(2)
        found[2, part], found[3, part] = _first_and_lead(lists.items, lists.scores, k)
        found[4, part] = _overlap(lists.items, k)
        begin = part.stop
    assert found is not None, "at least one block"
    ndcg, best_rank, first, lead, overlap = found
    track_ndcg, track_rank, track_count = track_record(windows, ndcg, best_rank)
    learnt = windows.of(*LEARNT_FROM)
    strength, peak = ListScale.by(first[learnt], lead[learnt], k).quantiles(first, lead)
    return Features(
        ndcg=ndcg,
        best_rank=best_rank,
        strength=strength,
        peak=peak,
        overlap=overlap,
        track_ndcg=track_ndcg,
        track_rank=track_rank,
        track_count=track_count,
    )


def save_features(path: Path, features: Features) -> None:
    """Writes the features as safetensors."""
    save_file({field.name: np.ascontiguousarray(getattr(features, field.name)) for field in fields(features)}, path)


def load_features(path: Path) -> Features:
    """Opens what `save_features` wrote: the numbers are mapped and not read."""
    return Features(**open_mapped(path)[0])
