"""The best static mixture: one set of weights for everybody. Legend: P points, M recallers.

The grid is scored on policy windows; its optimum, every single recaller and the uniform mixture then compete on validation
windows, which a router's checkpoints are chosen on too.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softgrpo.errors import DataError
from softgrpo.rewards import JudgedLists

MAX_GRID_POINTS = 1000
"""Finer grids, and grids of larger pools, are replaced by a random sample: tenths have 286 points for 4 recallers, 8008 for 7."""
DIRICHLET_POINTS = 500


@dataclass(frozen=True)
class Candidate:
    """One static mixture.

    Attributes:
        name: The recaller's name, `uniform` or `grid`.
        weights: M weights in pool order, sum 1.
        policy_ndcg: Mean NDCG@`fusion.k` over policy windows.
        valid_ndcg: Mean NDCG@`fusion.k` over validation windows.
    """

    name: str
    weights: tuple[float, ...]
    policy_ndcg: float
    valid_ndcg: float


@dataclass(frozen=True)
class StaticMixture:
    """The outcome of the search.

    Attributes:
        best: The candidate with the highest NDCG on validation windows.
        best_single: The single recaller with the highest NDCG on validation windows.
        candidates: All that competed on validation: the single recallers in pool order, uniform, grid.
    """

    best: Candidate
    best_single: Candidate
    candidates: tuple[Candidate, ...]


def weight_grid(num_recallers: int, steps: int, seed: int) -> Tensor:
    """Returns points of the weight simplex.

    All points whose weights are multiples of 1/steps, if these are at most `MAX_GRID_POINTS`; else `DIRICHLET_POINTS` draws
    from the uniform distribution over the simplex. The one-hot points come first, then the uniform one, in both cases.

    Args:
        num_recallers: M.
        steps: Resolution of the grid.
        seed: Of the draws.

    Returns:
        (P, M) float64, rows with sum 1, no row twice.
    """
    corners = [*np.eye(num_recallers), np.full(num_recallers, 1 / num_recallers)]
    bars = num_recallers - 1
    if math.comb(steps + bars, bars) <= MAX_GRID_POINTS:  # stars and bars
        places = np.array(list(itertools.combinations(range(steps + bars), bars))).reshape(-1, bars)
        inner = (np.diff(places, axis=1, prepend=-1, append=steps + bars) - 1) / steps
    else:
        inner = np.random.default_rng(seed).dirichlet(np.ones(num_recallers), DIRICHLET_POINTS)
    points = np.concatenate([corners, inner])
    _, first = np.unique(points.round(12), axis=0, return_index=True)
    return torch.from_numpy(points[np.sort(first)])


def best_static_mixture(
    policy: JudgedLists, valid: JudgedLists, recallers: tuple[str, ...], grid_steps: int, seed: int
) -> StaticMixture:
    """Searches the best weights for everybody.

    Args:
        policy: Policy windows, which the grid is scored on.
        valid: Validation windows, which decide between the candidates.
        recallers: The M names.
        grid_steps: See `weight_grid`.
        seed: See `weight_grid`.

    Returns:
        The best candidate, the best single recaller and all candidates. Equal scores go to the earlier candidate: single
        recallers before uniform before grid, so that a mixture has to be better, not equal, to be chosen.

    Raises:
        DataError: There are no policy or no validation windows.
    """
    for name, judged in (("policy", policy), ("validation", valid)):
        if len(judged) == 0:
            raise DataError(
                f"no {name} window",
                "static mixtures are fitted on policy windows and chosen on validation windows",
                "use more users, longer histories or other shares of the split",
            )
    grid = weight_grid(len(recallers), grid_steps, seed)
    policy_ndcg = policy.ndcg(grid).mean(0)
    rows = [*range(len(recallers) + 1), int(policy_ndcg.argmax())]
    valid_ndcg = valid.ndcg(grid[rows]).mean(0)
    candidates = tuple(
        Candidate(name, tuple(grid[row].tolist()), float(policy_ndcg[row]), float(score))
        for name, row, score in zip((*recallers, "uniform", "grid"), rows, valid_ndcg, strict=True)
    )
    singles = candidates[: len(recallers)]
    return StaticMixture(
        max(candidates, key=lambda candidate: candidate.valid_ndcg),
        max(singles, key=lambda candidate: candidate.valid_ndcg),
        candidates,
    )
