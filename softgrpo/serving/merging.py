"""Lists of a request merged with weights, and the lists for those about whom no recaller knows anything.

Legend: B requests, M recallers, D depth, K length, W windows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.common.records import ListSource
from softgrpo.config import FusionConfig
from softgrpo.ranking.fusion import align, contributions, merged_lists
from softgrpo.recallers.candidates import BLOCK, NO_ITEM

ItemsAndScores = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Items (..., D), -1 behind the end of a list, and scores (..., D), NaN there."""


def merge_lists(
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    weights: NDArray[np.float64],
    fusion: FusionConfig,
    platt: torch.Tensor | None,
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Merges lists with one weight per recaller.

    Args:
        items: (B, M, D), -1 behind the end of a list.
        scores: (B, M, D).
        weights: (B, M), finite, not negative, not all zero in a row.
        fusion: How lists are merged.
        platt: (M, 2) parameters of the normalisation `platt`, None where it was not tried.
        k: K.

    Returns:
        Merged lists (B, K), -1 behind the end, and what each recaller gave to each item, (B, K, M).
    """
    aligned = align(torch.from_numpy(items), torch.from_numpy(scores), fusion, platt)
    given = torch.from_numpy(weights)
    merged = merged_lists(aligned, given[:, None], fusion, k)[:, 0]
    return merged.numpy(), contributions(aligned, merged, given, fusion).numpy()


def common_lists(lists: ListSource, rows: NDArray[np.int64]) -> ItemsAndScores:
    """Returns each recaller's common list (M, D): the items with the largest sum of 1 / rank over some windows.

    The scores are the mean scores at each rank, so that they are on the recaller's own scale. Lists are read some windows at a
    time; sums are added window after window from the sum so far, so that they do not depend on how many come at a time.
    """
    count, depth = len(lists.recallers), lists.depth
    totals = [np.zeros(0) for _ in range(count)]  # by item
    sums, listed = np.zeros((count, depth), dtype=np.float32), np.zeros((count, depth), dtype=np.int64)
    for first in range(0, len(rows), BLOCK):
        own = lists.rows(rows[first : first + BLOCK])
        for recaller in range(count):
            retrieved, values = own.items[:, recaller], own.scores[:, recaller]
            filled = retrieved != NO_ITEM
            found = retrieved[filled]
            totals[recaller] = np.pad(
                totals[recaller], (0, max(0, int(found.max(initial=-1)) + 1 - len(totals[recaller])))
            )
            worth = np.broadcast_to(1.0 / np.arange(1, depth + 1), retrieved.shape)[filled]
            np.add.at(totals[recaller], found, worth)
            listed[recaller] += filled.sum(0)  # lists that are at least as long
            known = np.where(filled, values, np.float32(0.0))
            sums[recaller] = np.concatenate([sums[recaller][None], known]).sum(0)
    items = np.full((count, depth), NO_ITEM, dtype=np.int32)
    scores = np.full((count, depth), np.nan, dtype=np.float32)
    for recaller, total in enumerate(totals):
        best = np.argsort(-total, kind="stable")[: min(depth, int((total > 0).sum()))]
        mean = sums[recaller] / np.maximum(listed[recaller], 1)
        width = min(len(best), int((listed[recaller] > 0).sum()))
        items[recaller, :width] = best[:width]
        scores[recaller, :width] = np.minimum.accumulate(mean[:width])
    return items, scores


def without(lists: ItemsAndScores, history: NDArray[np.int32] | None) -> ItemsAndScores:
    """Returns lists (M, D) without the items of a history; what follows moves up, and the scores stay with their ranks."""
    items, scores = lists[0].copy(), lists[1].copy()
    if history is not None:
        for row in range(len(items)):
            kept = items[row][~np.isin(items[row], history) & (items[row] != NO_ITEM)]
            items[row], scores[row, len(kept) :] = NO_ITEM, np.nan
            items[row, : len(kept)] = kept
    return items, scores
