"""Upper bounds that look at the answers: what a router could reach at NDCG@`fusion.k`, not what any does reach."""

from __future__ import annotations

import torch
from torch import Tensor

from softgrpo.ranking.rewards import JudgedLists


def oracle_weights(judged: JudgedLists, grid: Tensor) -> Tensor:
    """Returns the best weights of a grid for each window.

    Args:
        judged: W windows.
        grid: (P, M) weights to choose from.

    Returns:
        (W, M); the earliest of equally good points.
    """
    return grid[judged.ndcg(grid).argmax(1)]


def oracle_recaller(judged: JudgedLists) -> Tensor:
    """Returns the best single recaller of each window as one-hot weights (W, M); the earliest of equally good ones."""
    return oracle_weights(judged, torch.eye(judged.aligned.num_recallers, dtype=torch.float64))
