"""Beyond accuracy: how much of the catalogue the first k items of a row show, how well known these are, and who brought them.

Legend: W windows, M recallers, K places of a list, I items, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.evaluation.rows import Method
from softgrpo.ranking.fusion import contributions, merged_lists
from softgrpo.ranking.rewards import JudgedLists

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
    positive = np.maximum(parts, 0)
    given = positive.sum(1)
    told = given > 0
    if not told.any():
        return np.full(parts.shape[1], np.nan)
    shares: NDArray[np.float64] = (positive[told] / given[told, None]).mean(0)
    return shares


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
    judged: JudgedLists, methods: Sequence[Method], recallers: Sequence[str], popularity: NDArray[np.int64], k: int
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
    rows = []
    for method in methods:
        exposure, parts = _shown(method.merged_as or judged, method.weights, len(popularity), k)
        shares = exposure_shares(parts) if method.weighs else np.full(len(recallers), np.nan)
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


def _shown(judged: JudgedLists, weights: Tensor, items: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns how often each item is shown (I,), and what each recaller gave to each place (places, M)."""
    exposure, parts = np.zeros(items, dtype=np.int64), []
    for begin in range(0, len(judged), CHUNK):
        part = slice(begin, begin + CHUNK)
        aligned, own = judged.aligned.select(part), weights[part]
        merged = merged_lists(aligned, own[:, None], judged.fusion, k)[:, 0]
        filled = (merged >= 0).numpy()
        exposure += np.bincount(merged.numpy()[filled], minlength=items)
        parts.append(contributions(aligned, merged, own, judged.fusion).numpy()[filled])
    return exposure, np.concatenate(parts)
