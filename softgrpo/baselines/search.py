"""One set of weights for everybody by search: cross-entropy method and Bayesian optimisation. Legend: P points, M recallers.

Two of the four of Huang et al. (2024), "Unleashing the Potential of Multi-Channel Fusion in Retrieval for Personalized
Recommendations", arXiv 2410.16080. The grid is in `softgrpo.baselines.static_mixture`, the per-user Dirichlet policy in
`softgrpo.baselines.networks`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        trial = study.ask(space)
        points.append(torch.from_numpy(from_cube(np.array([trial.params[name] for name in space]))))
        scores.append(float(score(points[-1][None])[0]))
        study.tell(trial, scores[-1])
    return points[int(np.argmax(scores))]
