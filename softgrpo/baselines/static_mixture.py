"""The best static mixture: one set of weights for everybody. Legend: P points, M recallers.

The grid and the other searches look at policy windows; their optima, every single recaller and the uniform mixture then
compete on validation windows, which a router's checkpoints are chosen on too.

The cross-entropy method and Bayesian optimisation are two of the four of Huang et al. (2024), "Unleashing the Potential of
Multi-Channel Fusion in Retrieval for Personalized Recommendations", arXiv 2410.16080; the third is the grid, and the fourth, the
per-user Dirichlet policy, is in `softgrpo.baselines.networks`.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.config import Baseline
from softgrpo.ranking.bounds import within_bounds
from softgrpo.ranking.metrics import check_any_window
from softgrpo.ranking.searched import SearchedLists

Score = Callable[[Tensor], Tensor]
"""From weights (P, M) float64 with sum 1 to what is maximised, (P,)."""

CEM_ROUNDS, CEM_SAMPLES, CEM_ELITES = 10, 40, 8
CEM_SPREAD, CEM_LEAST_SPREAD = 2.0, 0.05
BAYES_TRIALS, BAYES_RANDOM = 40, 10


def cross_entropy_method(score: Score, num_recallers: int, seed: int) -> Tensor:
    """Searches by the cross-entropy method (Rubinstein 1999, doi:10.1023/A:1010091220143).

    Points are softmax(z) with independent Gaussian z; each round fits mean and spread to the best of its samples.

    Args:
        score: What is maximised.
        num_recallers: M.
        seed: Of the samples.

    Returns:
        (M,) float64, the best point that was seen; the earliest of equally good ones.
    """
    generator = np.random.default_rng(seed)
    mean, spread = np.zeros(num_recallers), np.full(num_recallers, CEM_SPREAD)
    points, scores = [], []
    for _ in range(CEM_ROUNDS):
        logits = generator.normal(mean, spread, (CEM_SAMPLES, num_recallers))
        points.append(torch.from_numpy(logits).softmax(-1))
        scores.append(score(points[-1]))
        elites = logits[torch.argsort(scores[-1], descending=True, stable=True)[:CEM_ELITES].numpy()]
        mean, spread = elites.mean(0), np.maximum(elites.std(0), CEM_LEAST_SPREAD)
    return torch.cat(points)[torch.cat(scores).argmax()]


def from_cube(cube: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns a point of the simplex, (M,), from one of the unit cube, (M - 1,); uniform there is uniform here.

    Stick-breaking: each weight takes a share of what is left whose distribution is Beta(1, number of weights behind it).
    """
    behind = np.arange(len(cube), 0, -1)
    left = np.concatenate([[1.0], np.cumprod(cube ** (1.0 / behind))])
    return np.append(left[:-1] - left[1:], left[-1])


def bayesian_optimisation(score: Score, num_recallers: int, seed: int) -> Tensor:
    """Searches by Bayesian optimisation: a Gaussian process and its expected improvement, by optuna's `GPSampler`.

    Args:
        score: What is maximised.
        num_recallers: M.
        seed: Of the random points that it starts with, and of the sampler.

    Returns:
        (M,) float64, the best point that was tried; the earliest of equally good ones.
    """
    import optuna  # it is slow to import, and the table needs this module without it
    from threadpoolctl import threadpool_limits

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=BAYES_RANDOM, deterministic_objective=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        f"cube_{axis}": optuna.distributions.FloatDistribution(0.0, 1.0) for axis in range(num_recallers - 1)
    }
    points, scores = [], []
    for _ in range(BAYES_TRIALS):
        with threadpool_limits(1):  # of tiny matrices: a second thread makes both wait, for four times the time
            trial = study.ask(space)
        points.append(torch.from_numpy(from_cube(np.array([trial.params[name] for name in space]))))
        scores.append(float(score(points[-1][None])[0]))
        study.tell(trial, scores[-1])
    return points[int(np.argmax(scores))]


MAX_GRID_POINTS = 1000
"""Finer grids, and grids of larger pools, are replaced by a random sample: tenths have 286 points for 4 recallers, 8008 for 7."""
DIRICHLET_POINTS = 500
SEARCH_FUNCTIONS: dict[Baseline, Callable[[Score, int, int], Tensor]] = {
    "cem": cross_entropy_method,
    "bayes": bayesian_optimisation,
}
SEARCH_NAMES = {"grid": "grid search", "cem": "cross-entropy method", "bayes": "Bayesian optimisation"}
"""Candidate of the best static mixture -> how people call the search that found it."""


@dataclass(frozen=True)
class Candidate:
    """One static mixture.

    Attributes:
        name: The recaller's name, `uniform`, or a search: `grid`, `cem`, `bayes`.
        weights: M weights in pool order, sum 1.
        policy_ndcg: Mean NDCG@`fusion.k` over policy windows.
        valid_ndcg: Mean NDCG@`fusion.k` over validation windows.
    """

    name: str
    weights: tuple[float, ...]
    policy_ndcg: float
    valid_ndcg: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Candidate:
        """Returns the mixture that `dataclasses.asdict` gave, also after JSON."""
        return cls(**{**values, "weights": tuple(values["weights"])})


@dataclass(frozen=True)
class StaticMixture:
    """The outcome of the search.

    Attributes:
        best: The candidate with the highest NDCG on validation windows.
        best_single: The single recaller with the highest NDCG on validation windows.
        candidates: All that competed on validation: the single recallers in pool order, uniform, grid, other searches.
    """

    best: Candidate
    best_single: Candidate
    candidates: tuple[Candidate, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> StaticMixture:
        """Returns the outcome that `dataclasses.asdict` gave, also after JSON."""
        candidates = tuple(map(Candidate.of, values["candidates"]))
        return cls(Candidate.of(values["best"]), Candidate.of(values["best_single"]), candidates)


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
    policy: SearchedLists,
    valid: SearchedLists,
    recallers: tuple[str, ...],
    grid_steps: int,
    seed: int,
    searches: Sequence[Baseline] = (),
) -> StaticMixture:
    """Searches the best weights for everybody.

    Args:
        policy: Policy windows, which searches look at.
        valid: Validation windows, which decide between the candidates.
        recallers: The M names.
        grid_steps: See `weight_grid`.
        seed: See `weight_grid`; also of the searches.
        searches: Further searches, among `SEARCH_FUNCTIONS`.

    Returns:
        The best candidate, the best single recaller and all candidates. Equal scores go to the earlier candidate: single
        recallers before uniform before grid before other searches, so that a mixture has to be better, not equal, to be chosen.
        Where the merge has bounds on the shares, all mixtures are within them, and single recallers are told without bounds and
        do not compete; the grid holds what is nearest to them.

    Raises:
        DataError: There are no policy or no validation windows.
    """
    for name, lists in (("policy", policy), ("validation", valid)):
        check_any_window(
            name, lists.total, "static mixtures are fitted on policy windows and chosen on validation windows"
        )
    score, fusion = policy.mean_ndcg, policy.hit.fusion
    grid = within_bounds(weight_grid(len(recallers), grid_steps, seed), fusion)
    on_grid = score(grid)
    rows = [*range(len(recallers) + 1), int(on_grid.argmax())]
    searched = [within_bounds(SEARCH_FUNCTIONS[name](score, len(recallers), seed), fusion) for name in searches]
    points = torch.stack([*grid[rows], *searched])
    scores = [*on_grid[rows].tolist(), *(float(score(point[None])[0]) for point in searched)]
    names = (*recallers, "uniform", "grid", *searches)
    candidates = _candidates(names, points, scores, valid.mean_ndcg(points).tolist())
    singles, rivals = candidates[: len(recallers)], candidates
    if fusion.bounds is not None:  # a recaller alone may be beyond them: it is told as it is, and is no rival
        alone = torch.eye(len(recallers), dtype=torch.float64)
        on_policy, on_valid = (lists.unbounded.mean_ndcg(alone).tolist() for lists in (policy, valid))
        singles, rivals = _candidates(recallers, alone, on_policy, on_valid), candidates[len(recallers) :]
    return StaticMixture(
        max(rivals, key=lambda candidate: candidate.valid_ndcg),
        max(singles, key=lambda candidate: candidate.valid_ndcg),
        (*singles, *candidates[len(recallers) :]),
    )


def _candidates(
    names: Sequence[str], points: Tensor, on_policy: Sequence[float], on_valid: Sequence[float]
) -> tuple[Candidate, ...]:
    """Returns mixtures from their weights (P, M) and their NDCG on policy and on validation windows."""
    return tuple(
        Candidate(name, tuple(point.tolist()), *scores)
        for name, point, *scores in zip(names, points, on_policy, on_valid, strict=True)
    )
