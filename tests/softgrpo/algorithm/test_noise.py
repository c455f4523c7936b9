"""Noise that is spread evenly: each sample has the law of independent noise, and together they vary less.

Legend: G samples, M classes, R rows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import chisquare, kstest
from torch import Tensor

from softgrpo.algorithm.noise import row_noise, spread_noise
from softgrpo.algorithm.soft_grpo import Density, group_advantages, log_density, sample

ROWS = 4000


@pytest.fixture(scope="module")
def spread() -> Tensor:
    """(R, 8, 2) noise."""
    return row_noise(torch.arange(ROWS), (8, 2), seed=1, generation=0, kind="quasi")


def test_spread_noise_belongs_to_its_row(spread: Tensor) -> None:
    rows = torch.tensor([5, 2, 9])
    assert torch.equal(row_noise(rows, (8, 2), 1, 0, "quasi"), spread[rows])
    for other in (row_noise(rows, (8, 2), 2, 0, "quasi"), row_noise(rows, (8, 2), 1, 1, "quasi"), spread[rows.roll(1)]):
        assert not (other == spread[rows]).any()
    state = torch.random.get_rng_state()
    spread_noise((4, 3), seed=7)
    assert torch.equal(state, torch.random.get_rng_state()), "the random numbers of others are left alone"


@pytest.mark.parametrize("place", [0, 1, 7])
def test_each_sample_has_the_gumbel_law_with_independent_classes(spread: Tensor, place: int) -> None:
    own = spread[:, place].double().numpy()
    for each in own.T:
        assert kstest(each, "gumbel_r").pvalue > 0.001
    uniform = np.exp(-np.exp(-own))  # uniform on the square where the classes are independent: 16 equal cells
    cells = (4 * uniform).astype(int).clip(0, 3)
    assert chisquare(np.bincount(4 * cells[:, 0] + cells[:, 1], minlength=16)).pvalue > 0.001


def test_the_samples_of_a_row_fill_each_eighth_once(spread: Tensor) -> None:
    """Of a scrambled Sobol' sequence the first 2^k points have one in each interval of length 2^-k, in every dimension."""
    eighths = (8 * torch.exp(-torch.exp(-spread.double()))).long().sort(1).values
    assert (eighths == torch.arange(8)[None, :, None]).all()


def step_gradients(noise: Tensor, theta: float, density: Density, centred: bool) -> Tensor:
    """Returns the gradient with respect to theta, logits (theta, 0), of the mean over G of 1[w_1 > 0.6], one per row, (R,)."""
    logits = torch.tensor([[theta, 0.0]]).expand(len(noise), -1).clone().requires_grad_()
    drawn = sample(logits.detach(), noise, 1.0, 1.0, density, 0.25)
    rewards = (drawn.weights[..., 0] > 0.6).float()
    advantages = group_advantages(rewards, "none") if centred else rewards
    log = log_density(logits, drawn.perturbed, drawn.support, 1.0, density, 0.25)
    (gradient,) = torch.autograd.grad((log * advantages).mean(1).sum(), logits)
    return gradient[:, 0].double()


@pytest.mark.parametrize("density", ["noise", "concrete", "discrete"])
def test_the_gradient_is_unbiased_and_varies_less(spread: Tensor, density: Density) -> None:
    theta = 0.4
    # P(w_1 > 0.6) = sigmoid((theta - log 1.5) / s); the discrete arm wins with p_1 = sigmoid(theta)
    place = theta if density == "discrete" else (theta - np.log(1.5)) / 0.25
    exact = expit(place) * expit(-place) / (1.0 if density == "discrete" else 0.25)
    found = step_gradients(spread, theta, density, centred=False)
    assert abs(found.mean().item() - exact) < 5 * found.std().item() / np.sqrt(ROWS)
    # with the mean of the group as baseline independent samples shrink it by 1 / G; these have a mean that hardly varies
    centred = step_gradients(spread, theta, density, centred=True)
    assert (1 - 1.2 / 8) * exact < centred.mean().item() < 1.05 * exact
    plain = step_gradients(row_noise(torch.arange(ROWS), (8, 2), 1, 0), theta, density, centred=True)
    relative = [(each.var() / each.mean().square()).item() for each in (centred, plain)]
    assert relative[0] < 0.7 * relative[1]
