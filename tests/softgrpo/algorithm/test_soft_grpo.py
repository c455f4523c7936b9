"""The mathematics of SofT-GRPO, each property against arithmetic by hand or an independent computation.

Legend: B prompts, G generations, M classes; N samples of a statistical test.
"""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from trl import GRPOTrainer

from softgrpo.algorithm.noise import gumbel_noise, row_noise
from softgrpo.algorithm.soft_grpo import (
    ImportanceRatio,
    ScaleRewards,
    clipped_loss,
    entropy,
    equal_rewards,
    exact_kl,
    group_advantages,
    log_density,
    sample,
    support_log_softmax,
    top_p_support,
)
from softgrpo.errors import TrainingError

FORMS: tuple[ImportanceRatio, ...] = ("noise", "concrete")
both_forms = pytest.mark.parametrize("form", FORMS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Returns seeded Gumbel noise."""
    return gumbel_noise(shape, torch.Generator().manual_seed(seed))


def scores(logits: Tensor, perturbed: Tensor, tau: float, form: ImportanceRatio) -> Tensor:
    """Returns the gradient of the log density with respect to the logits (M,) for every sample (N, M), as (N, M).

    One row of logits per sample, so that one backward pass gives all of them.
    """
    rows = logits.expand(len(perturbed), -1).clone().requires_grad_()
    density = log_density(rows, perturbed[:, None], torch.ones_like(rows, dtype=torch.bool), tau, form)
    (gradient,) = torch.autograd.grad(density.sum(), rows)
    return gradient.double()


# ---------------------------------------------------------------- support


def log_rows(*probabilities: float) -> Tensor:
    """Returns one row of logits with these probabilities."""
    return torch.tensor([probabilities], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("probabilities", "top_p", "kept"),
    [
        ((0.6, 0.4), 0.9, (True, True)),  # 0.6 < 0.9: the class that crosses, the second, is kept
        ((0.95, 0.05), 0.9, (True, False)),  # 0.95 >= 0.9: the first alone reaches it
        ((0.05, 0.95), 0.9, (False, True)),  # the order of the classes plays no part
        ((0.2, 0.5, 0.3), 0.7, (False, True, True)),  # 0.5 < 0.7 <= 0.5 + 0.3
        ((0.2, 0.5, 0.3), 0.85, (True, True, True)),  # 0.8 < 0.85
        ((0.2, 0.5, 0.3), 0.01, (False, True, False)),  # at least one
        ((0.999999, 1e-6, 1e-30), 1.0, (True, True, True)),  # 1 keeps all, however small
    ],
)
def test_top_p_keeps_the_class_that_crosses(
    probabilities: tuple[float, ...], top_p: float, kept: tuple[bool, ...]
) -> None:  # fmt: skip
    assert top_p_support(log_rows(*probabilities), top_p).tolist() == [list(kept)]


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_top_p_is_the_smallest_prefix(logits: list[float], top_p: float) -> None:
    probabilities = torch.tensor([logits], dtype=torch.float32).softmax(-1)[0].double().numpy()
    kept = top_p_support(torch.tensor([logits]), top_p)[0].numpy()
    inside = np.sort(probabilities[kept])
    assert inside.sum() >= top_p - 1e-5  # its mass reaches top_p
    assert inside[1:].sum() < top_p + 1e-5  # and without its smallest class it does not
    assert kept.all() or inside[0] >= probabilities[~kept].max()  # and nothing outside is more probable


def test_support_log_softmax_by_hand() -> None:
    # p = (0.5, 0.3, 0.2) on the first two classes: 0.5 / 0.8 and 0.3 / 0.8
    found = support_log_softmax(log_rows(0.5, 0.3, 0.2), torch.tensor([[True, True, False]]))
    assert torch.allclose(found.exp(), torch.tensor([[0.625, 0.375, 0.0]]))
    assert found.dtype == torch.float32


def test_an_empty_support_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"\[TRAINING-012\]"):
        support_log_softmax(torch.zeros(2, 3), torch.tensor([[True, False, False], [False, False, False]]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_named(bad: float) -> None:
    logits = torch.tensor([[0.0, bad]])
    for call in (
        lambda: top_p_support(logits, 0.9),
        lambda: sample(logits, noise(1, 2, 2), 1.0, 1.0),
        lambda: exact_kl(logits, torch.zeros(1, 2)),
        lambda: exact_kl(torch.zeros(1, 2), logits),
    ):
        with pytest.raises(TrainingError, match=r"logits hold 1 NaN or infinite values of 2.*\[TRAINING-011\]"):
            call()


# ---------------------------------------------------------------- sampling


def test_gumbel_noise_has_the_mean_and_variance_of_the_gumbel_law() -> None:
    values = noise(400_000).double()
    # mean: Euler's constant 0.5772; variance: pi^2 / 6 = 1.6449. Standard errors: sqrt(1.6449 / N) = 0.0020 and
    # sqrt((kurtosis 5.4 - 1) / N) * 1.6449 = 0.0055; five of them are allowed.
    assert values.mean().item() == pytest.approx(np.euler_gamma, abs=0.010)
    assert values.var().item() == pytest.approx(math.pi**2 / 6, abs=0.028)
    assert torch.equal(noise(3, 2), noise(3, 2)) and not torch.equal(noise(3, 2), noise(3, 2, seed=1))


def test_weights_by_hand() -> None:
    # p = (0.8, 0.2), noise (0, log 4), tau 0.5: q = (log 0.8, log 0.8), so w = (1/2, 1/2)
    # noise (log 3, log 4): q = (log 2.4, log 0.8); w = softmax(2 q) = (2.4^2, 0.8^2) / 6.4 = (0.9, 0.1)
    eps = torch.tensor([[[0.0, math.log(4)], [math.log(3), math.log(4)]]])
    drawn = sample(log_rows(0.8, 0.2), eps, tau=0.5, top_p=1.0)
    assert torch.allclose(drawn.weights, torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]))
    assert torch.allclose(drawn.perturbed.exp(), torch.tensor([[[0.8, 0.8], [2.4, 0.8]]]))


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6),
    st.floats(0.05, 5.0),
    st.floats(0.05, 1.0),
    st.integers(0, 999),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
@settings(deadline=None)
def test_weights_are_a_point_on_the_simplex_and_zero_outside(
    logits: list[float], tau: float, top_p: float, seed: int, dtype: torch.dtype
) -> None:  # fmt: skip
    rows = torch.tensor([logits], dtype=dtype)
    for form in FORMS:
        drawn = sample(rows, noise(1, 5, len(logits), seed=seed), tau, top_p, form)
        assert drawn.weights.dtype == drawn.log_density.dtype == torch.float32
        assert torch.isfinite(drawn.log_density).all()
        assert torch.allclose(drawn.weights.sum(-1), torch.ones(1, 5), atol=1e-6)
        assert (drawn.weights.masked_select(~drawn.support[:, None]) == 0).all()
        assert (drawn.weights >= 0).all()


@both_forms
def test_logits_of_ten_thousand_keep_ratio_and_gradient_finite(form: ImportanceRatio) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]], requires_grad=True)
    for top_p in (0.9, 1.0):
        drawn = sample(logits.detach(), noise(2, 4, 3), 1.0, top_p, form)
        density = log_density(logits, drawn.perturbed, drawn.support, 1.0, form)
        assert torch.equal(density, drawn.log_density)
        (gradient,) = torch.autograd.grad(density.sum(), logits)
        assert torch.isfinite(gradient).all()


def test_argmax_of_the_perturbed_logits_follows_the_probabilities() -> None:
    expected = np.array([0.5, 0.3, 0.15])  # p = (0.5, 0.3, 0.15, 0.05) restricted to top_p = 0.95
    drawn = sample(log_rows(0.5, 0.3, 0.15, 0.05), noise(1, 60_000, 4, seed=3), tau=0.7, top_p=0.94)
    assert drawn.support.tolist() == [[True, True, True, False]]
    counts = np.bincount(drawn.weights[0].argmax(-1).numpy(), minlength=4)
    assert counts[3] == 0
    assert chisquare(counts[:3], expected / expected.sum() * counts.sum()).pvalue > 0.001


# ---------------------------------------------------------------- densities and ratios


@both_forms
def test_the_same_policy_gives_ratio_one_and_clips_nothing(form: ImportanceRatio) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    drawn = sample(logits, noise(5, 3, 4), 0.6, 0.9, form)
    new = log_density(logits, drawn.perturbed, drawn.support, 0.6, form)
    clipped = clipped_loss(new, drawn.log_density, torch.randn(5, 3), 0.0, 0.0)
    assert (clipped.ratio == 1.0).all()
    assert clipped.clipped_low == clipped.clipped_high == 0.0


def test_the_noise_density_is_that_of_the_gumbel_law() -> None:
    logits, eps = log_rows(0.5, 0.3, 0.2), noise(1, 6, 3)
    drawn = sample(logits, eps, 1.0, 1.0, "noise")
    # q - log p is the noise itself: its density is torch's Gumbel(0, 1)
    expected = torch.distributions.Gumbel(0.0, 1.0).log_prob(eps).sum(-1)
    assert torch.allclose(drawn.log_density, expected, atol=1e-4)


def test_the_noise_ratio_by_hand() -> None:
    # M = 2, q = (0, 0): log f(-log p) = log p - p, summed: log(p1 p2) - 1. Old p = (1/2, 1/2), new p = (0.8, 0.2):
    # log r = log(0.16 / 0.25)
    everything, zeros = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 1, 2)
    old, new = (log_density(log_rows(*p), zeros, everything, 1.0, "noise") for p in ((0.5, 0.5), (0.8, 0.2)))
    assert (new - old).exp().item() == pytest.approx(0.16 / 0.25, rel=1e-5)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_concrete_density_is_that_of_torch(tau: float) -> None:
    logits, other = log_rows(0.5, 0.3, 0.2).float(), log_rows(0.2, 0.2, 0.6).float()
    drawn = sample(logits, noise(1, 8, 3), tau, 1.0, "concrete")
    weights = drawn.weights.double()
    torch_old, torch_new = (
        torch.distributions.RelaxedOneHotCategorical(torch.tensor(tau), logits=each.double()).log_prob(weights)
        for each in (logits, other)
    )
    # equal up to (M - 1)! tau^(M - 1), which torch includes
    constant = math.log(math.factorial(2) * tau**2)
    assert torch.allclose(drawn.log_density.double() + constant, torch_old, atol=1e-3)
    new = log_density(other, drawn.perturbed, drawn.support, tau, "concrete")
    assert torch.allclose((new - drawn.log_density).double(), torch_new - torch_old, atol=1e-3)


def test_the_concrete_ratio_ignores_a_constant_in_q_and_the_noise_ratio_does_not() -> None:
    old, new = torch.zeros(1, 3), torch.tensor([[0.5, 0.0, -0.5]])
    q, everything = noise(1, 4, 3), torch.ones(1, 3, dtype=torch.bool)
    for form in FORMS:
        first, second = (
            log_density(new, moved, everything, 1.0, form) - log_density(old, moved, everything, 1.0, form)
            for moved in (q, q + 1.0)
        )
        assert torch.allclose(first, second, atol=1e-5) == (form == "concrete")


@both_forms
def test_classes_outside_the_support_get_no_gradient(form: ImportanceRatio) -> None:
    logits = log_rows(0.6, 0.35, 0.05).float().requires_grad_()
    drawn = sample(logits.detach(), noise(1, 4, 3), 1.0, 0.9, form)
    density = log_density(logits, drawn.perturbed, drawn.support, 1.0, form)
    (gradient,) = torch.autograd.grad(density[0, 0], logits)
    assert gradient[0, 2] == 0.0 and (gradient[0, :2] != 0.0).all()


@both_forms
@pytest.mark.parametrize("probabilities", [(0.5, 0.5), (0.7, 0.2, 0.1)])
def test_the_mean_gradient_of_log_r_is_zero(form: ImportanceRatio, probabilities: tuple[float, ...]) -> None:
    logits = log_rows(*probabilities).float()
    drawn = sample(logits, noise(1, 100_000, len(probabilities), seed=5), 0.8, 1.0, form)
    gradient = scores(logits[0], drawn.perturbed[0], 0.8, form)
    standard_error = gradient.std(0) / math.sqrt(len(gradient))
    assert (gradient.mean(0).abs() < 5 * standard_error).all()


# ---------------------------------------------------------------- expected gradients

STEP_AT = 0.6  # the reward of the enumerated problem: 1 where w_1 > 0.6, else 0


def expected_step_reward(theta: float, tau: float) -> float:
    """Returns P(w_1 > 0.6) for logits (theta, 0).

    w_1 > c where (q_1 - q_2) / tau > log(c / (1 - c)); q_1 - q_2 = theta + a logistic variable, so the probability is
    sigmoid(theta - tau log(c / (1 - c))).
    """
    return 1.0 / (1.0 + math.exp(-(theta - tau * math.log(STEP_AT / (1.0 - STEP_AT)))))


@both_forms
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_gradient_is_that_of_the_enumerated_expectation(form: ImportanceRatio, tau: float) -> None:
    theta, step = 0.4, 1e-4
    numeric = (expected_step_reward(theta + step, tau) - expected_step_reward(theta - step, tau)) / (2 * step)
    logits = torch.tensor([theta, 0.0])
    drawn = sample(logits[None], noise(1, 200_000, 2, seed=7), tau, 1.0, form)
    rewards = (drawn.weights[0, :, 0] > STEP_AT).double()
    assert rewards.mean().item() == pytest.approx(expected_step_reward(theta, tau), abs=0.006)
    products = (rewards - rewards.mean())[:, None] * scores(logits, drawn.perturbed[0], tau, form)
    standard_error = products.std(0) / math.sqrt(len(products))
    # the derivative with respect to the second logit is the opposite one
    assert (products.mean(0) - torch.tensor([numeric, -numeric]).double()).abs().le(5 * standard_error).all()
    assert standard_error.max() < 0.05 * numeric  # the test can tell


@pytest.mark.parametrize(
    ("probabilities", "tau", "expected"),
    [
        # 8/17: M = 2, uniform, tau = 1, reward w - 1/2, E_i = exp(-noise_i) ~ Exponential(1), w = E_2 / T with T = E_1 + E_2 ~
        # Gamma(2) independent of w ~ U(0, 1). Scores: concrete 2 w - 1, noise (E_2 - E_1) / 2 = T (2 w - 1) / 2. So
        # concrete: E[(2w-1)^4] / 4 - (1/6)^2 = 1/20 - 1/36 = 4/180; noise: E[T^2] / 16 / 5 - 1/36 = 6/80 - 1/36 = 17/360
        ((0.5, 0.5), 1.0, (4 / 180) / (17 / 360)),
        ((0.5, 0.5), 0.5, 0.42),  # as measured for the design
        ((1 / 3, 1 / 3, 1 / 3), 1.0, 0.69),
        ((1 / 6,) * 6, 1.0, 0.85),
    ],
)
def test_the_concrete_gradient_has_less_variance_and_the_same_mean(
    probabilities: tuple[float, ...], tau: float, expected: float
) -> None:  # fmt: skip
    logits = log_rows(*probabilities).float()
    drawn = sample(logits, noise(1, 200_000, len(probabilities), seed=11), tau, 1.0)
    rewards = drawn.weights[0, :, :1].double() - probabilities[0]  # linear in w, centred
    noisy, quiet = (rewards * scores(logits[0], drawn.perturbed[0], tau, form) for form in FORMS)
    assert (quiet.var(0).sum() / noisy.var(0).sum()).item() == pytest.approx(expected, abs=0.03)
    difference = noisy - quiet
    assert (difference.mean(0).abs() < 5 * difference.std(0) / math.sqrt(len(difference))).all()


def discrete_gradient(probabilities: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Returns the gradient of `sum_k p_k R_k` with respect to the logits, the expected gradient of discrete REINFORCE.

    Independent of the library: d p_k / d z_j = p_k (1[k = j] - p_j), so it is `p_j (R_j - sum_k p_k R_k)`.
    """
    return probabilities * (rewards - probabilities @ rewards)


@both_forms
def test_a_small_tau_gives_the_discrete_gradient(form: ImportanceRatio) -> None:
    probabilities, rewards = np.array([0.5, 0.3, 0.2]), torch.tensor([1.0, 0.2, 0.0]).double()
    logits = log_rows(*probabilities).float()
    drawn = sample(logits, noise(1, 200_000, 3, seed=13), 0.01, 1.0)
    products = (drawn.weights[0].double() @ rewards - 0.5)[:, None] * scores(logits[0], drawn.perturbed[0], 0.01, form)
    expected = torch.from_numpy(discrete_gradient(probabilities, rewards.numpy()))
    standard_error = products.std(0) / math.sqrt(len(products))
    # the weights at tau = 0.01 are one-hot but for ties within some 0.01 of noise: a bias below 0.01 * 0.5
    assert ((products.mean(0) - expected).abs() < 5 * standard_error + 0.005).all()


@both_forms
def test_given_the_argmax_the_expected_score_is_that_of_the_discrete_policy(form: ImportanceRatio) -> None:
    logits = log_rows(0.5, 0.3, 0.2).float()
    drawn = sample(logits, noise(1, 200_000, 3, seed=17), 1.0, 1.0)
    gradient, chosen = scores(logits[0], drawn.perturbed[0], 1.0, form), drawn.perturbed[0].argmax(-1)
    for k in range(3):
        given_k = gradient[chosen == k]
        expected = torch.eye(3, dtype=torch.float64)[k] - logits[0].double().exp()  # e_k - p
        assert ((given_k.mean(0) - expected).abs() < 5 * given_k.std(0) / math.sqrt(len(given_k))).all()


# ---------------------------------------------------------------- advantages, clip, divergence


def test_advantages_by_hand() -> None:
    # mean 2, deviations (-1, 0, 1), sample standard deviation sqrt(2 / 2) = 1; second group: mean 5, (-2, 0, 2), std 2
    rewards = torch.tensor([[1.0, 2.0, 3.0], [3.0, 5.0, 7.0]])
    assert torch.allclose(group_advantages(rewards, "none"), torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]]))
    expected = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]]) / torch.tensor([[1.0001], [2.0001]])
    assert torch.allclose(group_advantages(rewards, "group"), expected)
    # of all six: mean 3.5, squares 6.25 + 2.25 + 0.25 + 0.25 + 2.25 + 12.25 = 23.5, over 5 = 4.7
    batch = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]]) / (math.sqrt(4.7) + 1e-4)
    assert torch.allclose(group_advantages(rewards, "batch"), batch)


@given(st.floats(-100, 100), st.integers(2, 17), st.sampled_from(["group", "batch", "none"]))
def test_equal_rewards_give_no_advantage(reward: float, generations: int, scale: ScaleRewards) -> None:
    assert (group_advantages(torch.full((3, generations), reward), scale) == 0.0).all()


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3, unique=True), st.permutations([0, 1, 2]))
def test_the_order_of_a_group_does_not_matter(rewards: list[float], order: list[int]) -> None:
    row = torch.tensor([rewards])
    assert torch.allclose(group_advantages(row[:, order]), group_advantages(row)[:, order], atol=1e-4)


def test_rewards_that_are_not_finite_and_groups_of_one_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"rewards hold 1 NaN or infinite values of 2.*\[TRAINING-011\]"):
        group_advantages(torch.tensor([[0.0, math.nan]]))
    with pytest.raises(TrainingError, match=r"G = 1.*\[TRAINING-013\]"):
        group_advantages(torch.zeros(3, 1))


def test_the_clip_by_hand_on_both_sides() -> None:
    ratio = torch.tensor([[0.5, 0.5, 2.0, 2.0, 1.1]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    density = ratio.log().requires_grad_()
    clipped = clipped_loss(density, torch.zeros(1, 5), advantages, epsilon=0.2, epsilon_high=0.3)
    # min(r A, clip(r, 0.8, 1.3) A): min(0.5, 0.8), min(-0.5, -0.8), min(2, 1.3), min(-2, -1.3), 1.1
    assert clipped.loss.item() == pytest.approx(-(0.5 - 0.8 + 1.3 - 2.0 + 1.1) / 5)
    (gradient,) = torch.autograd.grad(clipped.loss, density)
    # the gradient -r A / 5 flows where the clip does not bind: it binds at (0.5, A < 0) and (2, A > 0)
    assert torch.allclose(gradient, torch.tensor([[-0.5, 0.0, 0.0, 2.0, -1.1]]) / 5)
    assert clipped.clipped_low.item() == pytest.approx(1 / 5) and clipped.clipped_high.item() == pytest.approx(1 / 5)


def test_two_sided_clipping_by_hand() -> None:
    ratio = torch.tensor([[0.5, 2.0, 2.0, 9.0, 9.0]])
    advantages = torch.tensor([[-1.0, 1.0, -1.0, 1.0, -1.0]])
    density = ratio.log().requires_grad_()
    clipped = clipped_loss(density, torch.zeros(1, 5), advantages, epsilon=0.2, epsilon_high=0.3, delta=4.0)
    # -0.8 (lower bound), 1.3 (upper), -2, 1.3, and -4 where it was -9
    assert clipped.loss.item() == pytest.approx(-(-0.8 + 1.3 - 2.0 + 1.3 - 4.0) / 5)
    (gradient,) = torch.autograd.grad(clipped.loss, density)
    assert torch.allclose(gradient, torch.tensor([[0.0, 0.0, 2.0, 0.0, 0.0]]) / 5)
    assert clipped.clipped_low.item() == pytest.approx(1 / 5) and clipped.clipped_high.item() == pytest.approx(3 / 5)


def test_the_divergence_and_the_entropy_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, reference = torch.randn(6, 5, generator=generator) * 3, torch.randn(6, 5, generator=generator)
    policy, other = (torch.distributions.Categorical(logits=each) for each in (logits, reference))
    assert torch.allclose(exact_kl(logits, reference), torch.distributions.kl_divergence(policy, other), atol=1e-5)
    assert torch.allclose(entropy(logits), policy.entropy(), atol=1e-5)
    assert torch.allclose(exact_kl(logits, logits + 7.0), torch.zeros(6), atol=1e-5)
    # by hand: p = (1/2, 1/2) from (1/4, 3/4): 0.5 log 2 + 0.5 log(2/3) = 0.5 log(4/3)
    assert exact_kl(log_rows(0.5, 0.5), log_rows(0.25, 0.75)).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)
    assert torch.isfinite(exact_kl(torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]]))).all()


# ---------------------------------------------------------------- one class


@both_forms
def test_one_class_is_legal_and_teaches_nothing(form: ImportanceRatio) -> None:
    logits = torch.tensor([[0.3], [-4.0]], requires_grad=True)
    drawn = sample(logits.detach(), noise(2, 4, 1), 0.7, 0.9, form)
    assert (drawn.weights == 1.0).all() and drawn.support.all()
    rewards = drawn.weights.sum(-1) * 0.3
    density = log_density(logits, drawn.perturbed, drawn.support, 0.7, form)
    loss = clipped_loss(density, drawn.log_density, group_advantages(rewards), 0.2, 0.2).loss
    loss = loss + exact_kl(logits, torch.ones(2, 1)).mean() + density.sum()  # even with every advantage at 1
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient == 0.0).all()


# ---------------------------------------------------------------- the discrete arm


def test_a_discrete_sample_is_the_class_of_the_largest_q() -> None:
    # p = (0.5, 0.3, 0.2) with top_p = 0.7 keeps two: p_S = (0.625, 0.375). Noise (0, 0, 9): the third is outside, the first
    # wins; noise (0, 1, 0): log 0.375 + 1 > log 0.625, the second wins
    eps = torch.tensor([[[0.0, 0.0, 9.0], [0.0, 1.0, 0.0]]])
    drawn = sample(log_rows(0.5, 0.3, 0.2), eps, 1.0, 0.7, "discrete")
    assert drawn.weights.tolist() == [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    assert torch.allclose(drawn.log_density.exp(), torch.tensor([[0.625, 0.375]]))
    assert torch.equal(drawn.perturbed, sample(log_rows(0.5, 0.3, 0.2), eps, 1.0, 0.7).perturbed)  # the same noise


def test_the_discrete_gradient_is_the_enumerated_one() -> None:
    probabilities, rewards = np.array([0.5, 0.3, 0.2]), torch.tensor([1.0, 0.2, 0.0]).double()
    logits = log_rows(*probabilities).float().expand(100_000, -1).clone().requires_grad_()
    eps = noise(1, 100_000, 3, seed=19)[0][:, None]
    drawn = sample(logits.detach(), eps, 1.0, 1.0, "discrete")
    density = log_density(logits, drawn.perturbed, drawn.support, 1.0, "discrete")
    (gradient,) = torch.autograd.grad(density.sum(), logits)
    products = (drawn.weights[:, 0].double() @ rewards - 0.5)[:, None] * gradient.double()
    expected = torch.from_numpy(discrete_gradient(probabilities, rewards.numpy()))
    assert ((products.mean(0) - expected).abs() < 5 * products.std(0) / math.sqrt(len(products))).all()


@pytest.mark.parametrize("tau", [1e-1, 1e-2, 1e-3])
def test_soft_samples_approach_discrete_ones(tau: float) -> None:
    logits, eps = log_rows(0.5, 0.3, 0.2), noise(1, 20_000, 3, seed=23)
    soft, discrete = (sample(logits, eps, tau, 1.0, density).weights for density in ("noise", "discrete"))
    # they differ where the two largest q lie within some tau: their gap has a density of at most 1/2 at 0 for two classes and
    # of a similar size for three, and 1 - w integrates to tau log 2 over it
    assert (soft - discrete).abs().amax(-1).mean() < tau


@pytest.mark.parametrize(("sequence_level", "delta"), [("token", None), ("sequence", None), ("token", 1.4)])
def test_the_discrete_loss_is_that_of_trl(sequence_level: str, delta: float | None) -> None:
    """A completion of one token whose vocabulary is the classes: loss and gradient of TRL's own code."""
    generator = torch.Generator().manual_seed(4)
    old, new = torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)
    eps, rewards = noise(5, 6, 4, seed=29), torch.rand(5, 6, generator=generator)
    ours, theirs = new.clone().requires_grad_(), new.clone().requires_grad_()
    drawn = sample(old, eps, 1.0, 1.0, "discrete")
    advantages = group_advantages(rewards)
    density = log_density(ours, drawn.perturbed, drawn.support, 1.0, "discrete")
    loss = clipped_loss(density, drawn.log_density, advantages, 0.2, 0.3, delta)
    chosen = drawn.weights.argmax(-1).reshape(-1, 1)  # (B * G, 1) completions, each prompt G times as TRL has it

    def log_probabilities(logits: Tensor) -> Tensor:
        return torch.log_softmax(logits, -1).repeat_interleave(6, 0).gather(1, chosen)

    trainer = trl_stand_in(log_probabilities(theirs), sequence_level, delta)
    ones = torch.ones(30, 1)
    inputs = {"prompt_ids": ones.long(), "prompt_mask": ones, "completion_ids": chosen, "completion_mask": ones}
    inputs |= {"advantages": advantages.reshape(-1), "old_per_token_logps": log_probabilities(old)}
    expected = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    assert 0.2 < loss.clipped_low + loss.clipped_high < 0.8  # the clip acts
    assert loss.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    gradients = [torch.autograd.grad(value, at)[0] for value, at in ((loss.loss, ours), (expected, theirs))]
    assert gradients[0].abs().max() > 0.01 and torch.allclose(*gradients, atol=1e-6)


def trl_stand_in(log_probabilities: Tensor, level: str, delta: float | None) -> Any:
    """Returns what TRL's loss reads of its trainer, with given log probabilities (B * G, 1) of the chosen tokens."""

    def same(value: Tensor, **named: Any) -> Tensor:
        return value

    everywhere = SimpleNamespace(gather=same, gather_for_metrics=same, reduce=same, num_processes=1)
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *given, **named: (
            log_probabilities,
            torch.zeros_like(log_probabilities),
            None,
        ),
        model=SimpleNamespace(training=True),
        accelerator=everywhere,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=delta),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=0.0,
        loss_type="grpo",
        epsilon_low=0.2,
        epsilon_high=0.3,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )


# ---------------------------------------------------------------- rows and steps


def test_noise_belongs_to_its_row() -> None:
    rows = torch.tensor([5, 2, 9])
    together = row_noise(rows, (4, 3), seed=1, generation=0)
    assert together.shape == (3, 4, 3)
    assert torch.equal(together[1:2], row_noise(torch.tensor([2]), (4, 3), seed=1, generation=0))
    for other in (row_noise(rows, (4, 3), 2, 0), row_noise(rows, (4, 3), 1, 1), together.roll(1, 0)):
        assert not (other == together).any()


def test_the_spread_of_a_step_is_that_of_all_its_rewards() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [3.0, 5.0, 7.0]])  # as in the example by hand above
    whole = group_advantages(rewards, "batch")
    parts = [group_advantages(part, "batch", rewards.flatten()) for part in rewards.split(1)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.allclose(torch.cat([group_advantages(part, "batch") for part in rewards.split(1)]), whole)
    for scale in ("group", "none"):
        assert torch.equal(group_advantages(rewards, scale, torch.zeros(4)), group_advantages(rewards, scale))
    assert equal_rewards(torch.tensor([[0.1] * 7, [0.1] * 6 + [0.2]])).tolist() == [True, False]
