"""The noise scale s: law of the samples, both densities and their gradients, for small and large s; s = 1 is as published.

Legend: B prompts, G generations, M classes; N samples of a statistical test.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import chisquare, kstest
from torch import Tensor

from softgrpo.algorithm.noise import gumbel_noise, scale_of_draw
from softgrpo.algorithm.soft_grpo import ImportanceRatio, clipped_loss, log_density, sample
from softgrpo.algorithm.trl_config import LEAST_NOISE_SCALE
from softgrpo.config import GRPOConfig

FORMS: tuple[ImportanceRatio, ...] = ("noise", "concrete")
SCALES = (0.1, 0.25, 1.0, 2.0)
both_forms = pytest.mark.parametrize("form", FORMS)
each_scale = pytest.mark.parametrize("scale", SCALES)
each_tau = pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
N = 100_000


def noise(*shape: int, seed: int = 0) -> Tensor:
    return gumbel_noise(shape, torch.Generator().manual_seed(seed))


def everything(logits: Tensor) -> Tensor:
    return torch.ones_like(logits, dtype=torch.bool)


def scores(logits: Tensor, perturbed: Tensor, tau: float, form: ImportanceRatio, scale: float) -> Tensor:
    """Returns the gradient of the log density with respect to the logits (M,) for every sample (N, M), as (N, M) float64."""
    rows = logits.expand(len(perturbed), -1).clone().requires_grad_()
    density = log_density(rows, perturbed[:, None], everything(rows), tau, form, scale)
    (gradient,) = torch.autograd.grad(density.sum(), rows)
    return gradient.double()


# ---------------------------------------------------------------- law of the samples


def test_weights_by_hand() -> None:
    # p = (0.8, 0.2), noise (0, 2 log 4), s = 1/2: q = (log 0.8, log 0.2 + log 4) = (log 0.8, log 0.8), so w = (1/2, 1/2)
    eps = torch.tensor([[[0.0, 2 * math.log(4)]]])
    drawn = sample(torch.tensor([[0.8, 0.2]]).log(), eps, tau=0.5, top_p=1.0, scale=0.5)
    assert torch.allclose(drawn.perturbed.exp(), torch.tensor([[[0.8, 0.8]]]))
    assert torch.allclose(drawn.weights, torch.tensor([[[0.5, 0.5]]]))


@each_scale
@each_tau
def test_the_weights_follow_their_law(scale: float, tau: float) -> None:
    """M = 2, logits (theta, 0): `logit(w_1) = (q_1 - q_2) / tau`, and q_1 - q_2 = theta + s times a logistic variable."""
    theta = 0.4
    drawn = sample(torch.tensor([[theta, 0.0]]), noise(1, N, 2, seed=3), tau, 1.0, scale=scale)
    first, second = drawn.weights[0].double().unbind(-1)
    inside = (first > 1e-30) & (second > 1e-30)  # at s = 2, tau = 0.5 a few are rounded to 0
    assert inside.float().mean() > 0.9999
    logistic = (tau * (first / second)[inside].log() - theta) / scale
    # float32 cannot tell weights near 1 apart; the law is tested where it can
    middle = logistic.numpy()[np.abs(logistic.numpy() * scale / tau) < 8]
    low, high = (expit(sign * min(50.0, 8 * tau / scale)) for sign in (-1, 1))
    assert kstest(middle, lambda x: (expit(x) - low) / (high - low)).pvalue > 0.001


@each_scale
def test_the_largest_weight_follows_the_sharpened_probabilities(scale: float) -> None:
    # argmax(log p + s noise) = argmax(log p / s + noise), so class k with probability proportional to p_k^(1 / s)
    probabilities = np.array([0.36, 0.33, 0.31])
    logits = torch.tensor(probabilities).log()[None]
    drawn = sample(logits, noise(1, N, 3, seed=5), 1.0, 1.0, scale=scale)
    counts = np.bincount(drawn.weights[0].argmax(-1).numpy(), minlength=3)
    expected = probabilities ** (1 / scale)
    assert chisquare(counts, expected / expected.sum() * N).pvalue > 0.001


def test_small_noise_samples_lie_near_the_policy() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    spread = [sample(logits, noise(1, N, 3), 1.0, 1.0, scale=scale).weights.std(1).max().item() for scale in SCALES]
    assert spread == sorted(spread) and spread[0] < 0.05 < 0.25 < spread[2]


def test_the_discrete_arm_knows_no_scale() -> None:
    logits, eps = torch.tensor([[0.5, 0.3, 0.2]]).log(), noise(1, 50, 3)
    plain, scaled = (sample(logits, eps, 1.0, 1.0, "discrete", scale) for scale in (1.0, 0.1))
    assert torch.equal(plain.perturbed, scaled.perturbed) and torch.equal(plain.weights, scaled.weights)
    new = torch.tensor([[0.1, 0.2, -0.3]])
    of_new = [log_density(new, plain.perturbed, plain.support, 1.0, "discrete", scale) for scale in (1.0, 0.1)]
    assert torch.equal(plain.log_density, scaled.log_density) and torch.equal(*of_new)


# ---------------------------------------------------------------- densities against numeric integration


@each_scale
def test_the_density_of_q_integrates_to_one(scale: float) -> None:
    """M = 2; the product over classes is a double integral, taken on a grid that reaches from -8 s to 40 s around log p."""
    logits = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log()
    steps = torch.linspace(-8.0, 40.0, 1201, dtype=torch.float64) * scale
    q = torch.cartesian_prod(*(steps + each for each in logits[0]))[None].float()
    density = log_density(logits, q, everything(logits), 1.0, "noise", scale).double().exp()
    assert (density.sum() * (steps[1] - steps[0]) ** 2).item() == pytest.approx(1.0, abs=1e-3)


@each_scale
@each_tau
def test_the_density_of_the_weights_integrates_to_their_law(scale: float, tau: float) -> None:
    """M = 2. The constant that is left out is `log((M - 1)! t^(M - 1)) = log t`, t = tau / s; the law is as in the test above."""
    theta, t = 0.4, tau / scale
    logits = torch.tensor([[theta, 0.0]])
    x = torch.linspace(-30.0, 30.0, 200_001, dtype=torch.float64) / t  # logit of w_1: dw = w (1 - w) dx
    w = torch.stack([x.sigmoid(), (-x).sigmoid()], dim=-1)
    q = (tau * torch.stack([torch.nn.functional.logsigmoid(x), torch.nn.functional.logsigmoid(-x)], -1)).float()[None]
    density = t * log_density(logits, q, everything(logits), tau, "concrete", scale)[0].double().exp() * w.prod(-1)
    mass = density.cumsum(0) * (x[1] - x[0])
    assert mass[-1].item() == pytest.approx(1.0, abs=2e-3)
    for cut in (-1.0, 0.0, 1.0):  # P(logit w_1 < cut / t) = sigmoid(t cut / t - theta / s)
        place = int((x < cut / t).sum())
        assert mass[place].item() == pytest.approx(float(expit(cut - theta / scale)), abs=2e-3)


@each_scale
@each_tau
def test_the_density_of_the_weights_is_that_of_q_without_its_constant(scale: float, tau: float) -> None:
    """`q` gives `w` up to a constant in all its entries: integrated out numerically, for M = 3 and two policies."""
    policies = torch.tensor([[0.5, 0.3, 0.2], [0.45, 0.35, 0.2]]).log()
    drawn = sample(policies[:1], noise(1, 6, 3), tau, 1.0, scale=scale)
    shifts = torch.linspace(-12.0, 12.0, 4001) * scale
    moved = (drawn.perturbed[0, :, None] + shifts[:, None]).flatten(0, 1)[None]  # (1, 6 * shifts, 3)
    ratios = []
    for logits in policies[:, None]:
        whole = log_density(logits, moved, everything(logits), tau, "noise", scale).double().view(6, -1)
        integrated = whole.logsumexp(-1)
        own = log_density(logits, drawn.perturbed, everything(logits), tau, "concrete", scale)[0].double()
        ratios.append(integrated - own)
    assert torch.allclose(*ratios, atol=1e-3)  # what is left depends on w, not on the policy
    assert not torch.allclose(ratios[0], torch.zeros(6, dtype=torch.float64), atol=1e-3)


# ---------------------------------------------------------------- ratios and gradients


@both_forms
@each_scale
def test_the_same_policy_gives_ratio_one_and_clips_nothing(form: ImportanceRatio, scale: float) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)) * 3
    drawn = sample(logits, noise(5, 3, 4), 0.6, 0.9, form, scale)
    new = log_density(logits, drawn.perturbed, drawn.support, 0.6, form, scale)
    clipped = clipped_loss(new, drawn.log_density, torch.randn(5, 3), 0.0, 0.0)
    assert (clipped.ratio == 1.0).all()
    assert clipped.clipped_low == clipped.clipped_high == 0.0


@both_forms
@each_scale
def test_the_mean_ratio_is_one(form: ImportanceRatio, scale: float) -> None:
    # the new policy is near enough for the ratio to have a small variance: logits moved by 0.3 s
    old = torch.tensor([0.5, 0.3, 0.2]).log()
    new = old + scale * torch.tensor([0.3, 0.0, -0.2])
    drawn = sample(old[None], noise(1, N, 3, seed=9), 0.8, 1.0, form, scale)
    ratio = (
        (log_density(new[None], drawn.perturbed, drawn.support, 0.8, form, scale) - drawn.log_density).double().exp()
    )
    assert abs(ratio.mean().item() - 1.0) < 5 * ratio.std().item() / math.sqrt(N)


@both_forms
@each_scale
def test_the_mean_gradient_of_log_r_is_zero(form: ImportanceRatio, scale: float) -> None:
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    drawn = sample(logits[None], noise(1, N, 3, seed=5), 0.8, 1.0, form, scale)
    gradient = scores(logits, drawn.perturbed[0], 0.8, form, scale)
    assert (gradient.mean(0).abs() < 5 * gradient.std(0) / math.sqrt(N)).all()


STEP_AT, THETA = 0.6, 0.4
"""The reward of the enumerated problem is 1 where w_1 > 0.6, else 0; logits are (theta, 0)."""


def expected_step_reward(theta: float, tau: float, scale: float) -> float:
    """Returns P(w_1 > 0.6) = sigmoid((theta - tau log(c / (1 - c))) / s), by the law of the weights above."""
    return float(expit((theta - tau * math.log(STEP_AT / (1.0 - STEP_AT))) / scale))


@both_forms
@each_scale
@each_tau
def test_the_gradient_is_that_of_the_enumerated_expectation(form: ImportanceRatio, tau: float, scale: float) -> None:
    step = 1e-4
    ends = [expected_step_reward(THETA + sign * step, tau, scale) for sign in (-1, 1)]
    numeric = (ends[1] - ends[0]) / (2 * step)
    logits = torch.tensor([THETA, 0.0])
    drawn = sample(logits[None], noise(1, 2 * N, 2, seed=7), tau, 1.0, form, scale)
    rewards = (drawn.weights[0, :, 0] > STEP_AT).double()
    assert rewards.mean().item() == pytest.approx(expected_step_reward(THETA, tau, scale), abs=0.006)
    products = (rewards - rewards.mean())[:, None] * scores(logits, drawn.perturbed[0], tau, form, scale)
    standard_error = products.std(0) / math.sqrt(len(products))
    assert (products.mean(0) - torch.tensor([numeric, -numeric]).double()).abs().le(5 * standard_error).all()
    assert standard_error.max() < 0.05 * numeric  # the test can tell


# ---------------------------------------------------------------- the published algorithm, and extremes


@pytest.mark.parametrize("tau", [0.7, 1.0])
def test_a_scale_of_one_is_the_published_algorithm_to_the_last_bit(tau: float) -> None:
    """The published formulas, written down once more."""
    logits, other = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2)) * 3
    eps, inside = noise(7, 4, 5), everything(logits)
    drawn = sample(logits, eps, tau, 1.0, scale=1.0)
    q = logits.log_softmax(-1)[:, None] + eps
    assert torch.equal(drawn.perturbed, q)
    assert torch.equal(drawn.weights, (q / tau).softmax(-1))
    log_p = other.log_softmax(-1)[:, None]
    assert torch.equal(
        log_density(other, q, inside, tau, "noise", 1.0), (-(q - log_p) - torch.exp(-(q - log_p))).sum(-1)
    )
    minus_log_w = (q / tau).logsumexp(-1, keepdim=True) - q / tau
    concrete = (log_p + (tau + 1) * minus_log_w).sum(-1) - 5 * (log_p + tau * minus_log_w).logsumexp(-1)
    assert torch.equal(log_density(other, q, inside, tau, "concrete", 1.0), concrete)


@both_forms
@pytest.mark.parametrize("scale", [0.001, 0.1])
def test_a_policy_far_from_its_samples_has_a_finite_gradient(form: ImportanceRatio, scale: float) -> None:
    logits = torch.tensor([[2.0, 0.0, -9.0]])
    drawn = sample(logits, noise(1, 8, 3), 1.0, 1.0, form, scale)
    moved = torch.tensor([[2.0, 0.0, 6.0]], requires_grad=True)  # the third class is 3 million times as probable
    density = log_density(moved, drawn.perturbed, drawn.support, 1.0, form, scale)
    loss = clipped_loss(density, drawn.log_density, torch.ones(1, 8), 0.2, 0.2).loss
    (gradient,) = torch.autograd.grad(loss, moved)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_the_scale_moves_on_a_line() -> None:
    assert [scale_of_draw(1.0, 0.5, draw, 6) for draw in range(6)] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert [scale_of_draw(0.25, None, draw, 3) for draw in range(3)] == [0.25] * 3
    assert scale_of_draw(1.0, 0.5, 0, 1) == 1.0  # one set of samples is the first


# ---------------------------------------------------------------- the smallest scale


def exact_density(log_p: np.ndarray, q: np.ndarray, scale: float) -> np.ndarray:
    """Returns the density of q, (N,), by the formula in float64."""
    d = (q - log_p) / scale
    return np.asarray((-d - np.exp(-d) - math.log(scale)).sum(-1))


def test_the_density_of_the_smallest_scale_is_not_lost_in_rounding() -> None:
    """The same noise in float64, which rounds a billion times less; probabilities down to exp(-10)."""
    logits, eps = torch.tensor([[0.0, -5.0, -10.0]]), noise(1, 2000, 3, seed=5)
    drawn = sample(logits, eps, 1.0, 1.0, scale=LEAST_NOISE_SCALE)
    log_p = logits.double().log_softmax(-1).numpy()
    wanted = exact_density(log_p, log_p + LEAST_NOISE_SCALE * eps[0].double().numpy(), LEAST_NOISE_SCALE)
    error = np.abs(drawn.log_density[0].double().numpy() - wanted)
    assert np.median(error) < 1e-3
    finer = sample(logits, eps, 1.0, 1.0, scale=1e-7)  # which both configurations refuse: nothing of the noise is left
    lost = exact_density(log_p, log_p + 1e-7 * eps[0].double().numpy(), 1e-7)
    assert np.median(np.abs(finer.log_density[0].double().numpy() - lost)) > 0.1


def test_both_configurations_refuse_smaller_scales() -> None:
    least = GRPOConfig(noise_scale=LEAST_NOISE_SCALE, noise_scale_end=LEAST_NOISE_SCALE)
    assert least.noise_scale == LEAST_NOISE_SCALE
    for name in ("noise_scale", "noise_scale_end"):
        with pytest.raises(ValueError, match=r"greater than or equal to 0\.001"):
            GRPOConfig.model_validate({name: LEAST_NOISE_SCALE * 0.999})
