"""What is known about a window before its targets: shape and overlap of the lists, and the recallers' track record.

Numbers here are what prompts put into words; gates without a language model read them as they are.
Legend: W windows, M recallers, D depth, T targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from softgrpo.common.mapped import open_mapped
from softgrpo.common.records import LEARNT_FROM, CandidateLists, ListSource, Windows
from softgrpo.policy.track_record import track_record

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


def _among(values: Floats, rows: NDArray[np.int64]) -> Floats:
    """Returns the quantile in [0, 1] of each value (W, M) among those of some windows."""
    return _quantiles(values, _ascending(values[rows]))


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


@dataclass(frozen=True)
class ListNumbers:
    """What is known of lists alone, (W, M) each.

    Attributes:
        ndcg: See `Features`.
        best_rank: See `Features`.
        first: First score, NaN of an empty list.
        lead: Lead of the first over the k-th score relative to the whole range, likewise.
        overlap: See `Features`.
    """

    ndcg: Floats
    best_rank: Floats
    first: Floats
    lead: Floats
    overlap: Floats

    @classmethod
    def of(cls, lists: CandidateLists, targets: NDArray[np.int32], k: int) -> ListNumbers:
        """Computes them.

        Args:
            lists: Of W windows.
            targets: (W, T), -1 behind the last.
            k: Cut-off of NDCG, lead and overlap.
        """
        first, lead = _first_and_lead(lists.items, lists.scores, k)
        return cls(*outcomes_of(lists, targets, k), first, lead, _overlap(lists.items, k))

    @classmethod
    def join(cls, parts: Iterable[Mapping[str, Floats]], count: int) -> ListNumbers:
        """Returns those of some windows behind those of others, of `count` windows in all, at least one.

        They are copied into room that was there before: small results that are kept between freed pieces make the heap grow.
        """
        joined: dict[str, Floats] = {}
        begin = 0
        for part in parts:
            rows = slice(begin, begin + len(part["ndcg"]))
            for field in fields(cls):
                own = part[field.name]
                joined.setdefault(field.name, np.empty((count, *own.shape[1:]), dtype=np.float32))[rows] = own
            begin = rows.stop
        return cls(**joined)

    def rows(self, rows: slice) -> ListNumbers:
        """Returns those of some windows."""
        return ListNumbers(**{name: values[rows] for name, values in vars(self).items()})

    def strength_and_peak(self, windows: Windows) -> tuple[Floats, Floats]:
        """Returns both as `Features` has them; the windows are those whose lists come from the same recallers."""
        learnt = windows.of(*LEARNT_FROM)
        return _among(self.first, learnt), _among(self.lead, learnt)


def outcomes_of(lists: CandidateLists, targets: NDArray[np.int32], k: int) -> tuple[Floats, Floats]:
    """Returns `ndcg` and `best_rank` of lists; arguments as of `ListNumbers.of`."""
    ranks = own_ranks(lists.items, targets)
    return own_ndcg(ranks, (targets >= 0).sum(1), k), ranks.min(2)


def features_by(own: ListNumbers, windows: Windows) -> Features:
    """Computes all features of windows, all those whose lists come from the same recallers, from what is known of the lists."""
    strength, peak = own.strength_and_peak(windows)
    return Features(
        own.ndcg, own.best_rank, strength, peak, own.overlap, *track_record(windows, own.ndcg, own.best_rank)
    )


def with_outcomes(features: Features, windows: Windows, ndcg: Floats, best_rank: Floats) -> Features:
    """Returns the features of the windows with other outcomes of the same lists, (W, M) each."""
    record = track_record(windows, ndcg, best_rank)
    return Features(ndcg, best_rank, features.strength, features.peak, features.overlap, *record)


def save_features(path: Path, features: Features) -> None:
    """Writes the features as safetensors."""
    save_file({field.name: np.ascontiguousarray(getattr(features, field.name)) for field in fields(features)}, path)


def load_features(path: Path) -> Features:
    """Opens what `save_features` wrote: the numbers are mapped and not read."""
    return Features(**open_mapped(path)[0])
