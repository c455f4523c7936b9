"""Lists of a request merged with weights, and the lists for those about whom no recaller knows anything.

Legend: B requests, M recallers, D depth, K length, W windows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.common.records import CandidateLists
from softgrpo.config import FusionConfig
from softgrpo.ranking.fusion import align, contributions, merged_lists
from softgrpo.recallers.candidates import NO_ITEM

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


def common_lists(lists: CandidateLists, rows: NDArray[np.int64]) -> ItemsAndScores:
    """Returns each recaller's common list (M, D): the items with the largest sum of 1 / rank over some windows.

    The scores are the mean scores at each rank, so that they are on the recaller's own scale.
    """
    count, depth = len(lists.recallers), lists.depth
    items = np.full((count, depth), NO_ITEM, dtype=np.int32)
    scores = np.full((count, depth), np.nan, dtype=np.float32)
    worth = 1.0 / np.arange(1, depth + 1)
    for recaller in range(count):
        retrieved, values = lists.items[rows, recaller], lists.scores[rows, recaller]
        filled = retrieved != NO_ITEM
        total = np.bincount(retrieved[filled], weights=np.broadcast_to(worth, retrieved.shape)[filled])
        best = np.argsort(-total, kind="stable")[: min(depth, int((total > 0).sum()))]
        listed = filled.sum(0)  # (D,) lists that are at least as long
        mean = np.where(filled, values, 0.0).sum(0) / np.maximum(listed, 1)
        width = min(len(best), int((listed > 0).sum()))
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
