"""Beyond accuracy: how much of the catalogue the first k items of a row show, how well known these are, and who brought them.

Legend: W windows, M recallers, K places of a list, I items, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.evaluation.rows import Method
from softgrpo.evaluation.table import by_lists
from softgrpo.ranking.fusion import contributions, merged_lists
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.sharded import Judged, shards_of

COVERAGE, NOVELTY, GINI, SHARE = "coverage", "novelty", "gini", "share_"
"""Columns of the table; the last one begins the name of a column for each recaller."""
CHUNK = 1024


def catalogue_coverage(exposure: NDArray[np.int64]) -> float:
    """Returns the share of items that at least one user is shown, from how often each item is shown (I,)."""
    return float((exposure > 0).mean())


def novelty(exposure: NDArray[np.int64], popularity: NDArray[np.int64]) -> float:
    """Returns the mean of -log2(share of all training interactions) over the places of all lists, in bits; NaN without a place.

    Args:
        exposure: (I,) how often each item is shown.
        popularity: (I,) its interactions in the recallers' training part; an item without any counts as if it had one.
    """
    shown = exposure.sum()
    if not shown:
        return float("nan")
    known = np.maximum(popularity, 1)
    return float((exposure * -np.log2(known / max(1, popularity.sum()))).sum() / shown)


def gini(exposure: NDArray[np.int64]) -> float:
    """Returns Gini's coefficient of how often each item is shown (I,): 0 if all items equally, near 1 if all places go to one.

    NaN without a place.
    """
    ascending, count = np.sort(exposure).astype(np.float64), len(exposure)
    total = ascending.sum()
    if not total:
        return float("nan")
    rank = np.arange(1, count + 1)
    return float(((2 * rank - count - 1) * ascending).sum() / (count * total))


def exposure_shares(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns each recaller's share of the places, (M,) with sum 1; NaN if no place can be told.

    A place counts for the recallers in proportion to what they gave to its item. Values below 0, which some normalisations
    have, count as 0; a place to which nobody gave more than 0 is left out.

    Args:
        parts: (places, M), see `softgrpo.ranking.fusion.contributions`.
    """
    return _Shown.none(0, parts.shape[1]).add(np.zeros(0, dtype=np.int64), parts).shares


@dataclass(frozen=True)
class _Shown:
    """What a row shows in some windows.

    Attributes:
        exposure: (I,) how often each item is shown.
        total: (M,) sum of the recallers' shares of the places that can be told, added place by place.
        told: How many places these are.
    """

    exposure: NDArray[np.int64]
    total: NDArray[np.float64]
    told: int

    @classmethod
    def none(cls, items: int, recallers: int) -> _Shown:
        """Returns what is shown in no window, of I items and M recallers."""
        return cls(np.zeros(items, dtype=np.int64), np.zeros(recallers), 0)

    def add(self, items: NDArray[np.int64], parts: NDArray[np.float64]) -> _Shown:
        """Returns this with more places: their items (places,) and what each recaller gave to them (places, M)."""
        positive = np.maximum(parts, 0)
        given = positive.sum(1)
        told = given > 0
        shares = positive[told] / given[told, None]
        # place after place from the sum so far, so that it does not depend on how many come at a time
        total = np.concatenate([self.total[None], shares]).sum(0)
        exposure = self.exposure + np.bincount(items, minlength=len(self.exposure))
        return _Shown(exposure, total, self.told + len(shares))

    @property
    def shares(self) -> NDArray[np.float64]:
        """(M,) see `exposure_shares`."""
        return self.total / self.told if self.told else np.full(len(self.total), np.nan)


def mean_popularity(targets: NDArray[np.integer], popularity: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the mean popularity (W,) of the targets of each window.

    Args:
        targets: (W, T), -1 behind the last; at least one per window.
        popularity: (I,), see `novelty`.
    """
    inside = targets >= 0
    total = np.where(inside, popularity[targets], 0).sum(1)
    means: NDArray[np.float64] = total / inside.sum(1)
    return means


def beyond_accuracy(
    judged: Judged, methods: Sequence[Method], recallers: Sequence[str], popularity: NDArray[np.int64], k: int
) -> pd.DataFrame:
    """Describes the first k items that each row shows; no target is looked at.

    Args:
        judged: The W test windows under the run's merge.
        methods: The R rows.
        recallers: The M names.
        popularity: (I,), see `novelty`.
        k: K.

    Returns:
        One row per method in their order: `method`, `label`, `kind`, `coverage`, `novelty` (bits), `gini`, and `share_<recaller>`,
        which are NaN for rows that weigh no recallers.
    """
    shown: dict[str, _Shown] = {}
    for lists, own in by_lists(judged, methods):
        for part, shard in shards_of(lists):
            for method in own:
                weights = method.weights[part]
                before = shown.get(method.key, _Shown.none(len(popularity), weights.shape[1]))
                shown[method.key] = _add_windows(before, shard, weights, k)
    rows = []
    for method in methods:
        exposure = shown[method.key].exposure
        shares = shown[method.key].shares if method.weighs else np.full(len(recallers), np.nan)
        values = {
            COVERAGE: catalogue_coverage(exposure),
            NOVELTY: novelty(exposure, popularity),
            GINI: gini(exposure),
        }
        named = {f"{SHARE}{name}": share for name, share in zip(recallers, shares.tolist(), strict=True)}
        rows.append({"method": method.key, "label": method.label, "kind": method.kind} | values | named)
    return pd.DataFrame(rows)


def beyond_metrics(table: pd.DataFrame, keys: Collection[str], k: int) -> dict[str, float]:
    """Returns the numbers of a few rows by `coverage@k/<method>`, `novelty@k/<method>` and `gini@k/<method>`, without NaN.

    Args:
        table: From `beyond_accuracy`.
        keys: Of the rows.
        k: Cut-off of the table.
    """
    rows = table[table["method"].isin(list(keys))].to_dict("records")
    named = {f"{name}@{k}/{row['method']}": float(row[name]) for row in rows for name in (COVERAGE, NOVELTY, GINI)}
    return {name: value for name, value in named.items() if not math.isnan(value)}


def _add_windows(shown: _Shown, judged: JudgedLists, weights: Tensor, k: int) -> _Shown:
    """Returns what is shown with more windows, (w, M) weights."""
    for begin in range(0, len(judged), CHUNK):
        part = slice(begin, begin + CHUNK)
        aligned, own = judged.aligned.select(part), weights[part]
        merged = merged_lists(aligned, own[:, None], judged.fusion, k)[:, 0]
        filled = (merged >= 0).numpy()
        parts = contributions(aligned, merged, own, judged.fusion).numpy()[filled]
        shown = shown.add(merged.numpy()[filled], parts)
    return shown
