"""SofT-GRPO for recaller weighting: sampling, importance ratio, advantages, loss. Tensor functions only.

Source: Zheng and Lee, "SofT-GRPO: Surpassing Discrete-Token LLM Reinforcement Learning via Gumbel-Reparameterized Soft-Thinking
Policy Optimization", arXiv 2511.06411; Maddison et al. 2017 for the Concrete density; Shao et al. 2024 for GRPO.
Departures from the paper: one prompt is one decision (no token sequence), so one forward pass serves all G samples; the ratio
`concrete` is offered beside the paper's `noise`; the KL divergence is the exact sum over the M classes. For comparison there is
a discrete arm (ordinary GRPO): a sample is one class, drawn by the same noise (Gumbel-max).

Legend: B prompts, G generations per prompt, M recallers. Any floating dtype goes in; all computation is in float32 log-space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from softgrpo.errors import TrainingError

ImportanceRatio = Literal["noise", "concrete"]
Density = Literal["noise", "concrete", "discrete"]
ScaleRewards = Literal["group", "batch", "none"]
ADVANTAGE_EPSILON = 1e-4
_LARGEST_EXPONENT = 80.0
"""`exp` of it is finite in float32, and a ratio is 0 long before."""


@dataclass(frozen=True)
class SoftSamples:
    """G soft samples per prompt from the old policy.

    Attributes:
        support: (B, M) bool, the classes that were sampled.
        perturbed: (B, G, M) float32, `q = log p_S + s * Gumbel noise`; 0 outside the support.
        weights: (B, G, M) float32, `softmax(q / tau)` on the support, exactly 0 outside; discrete: 1 at the largest q.
        log_density: (B, G) float32, log density of the samples under the old policy, of one of the three kinds.
    """

    support: Tensor
    perturbed: Tensor
    weights: Tensor
    log_density: Tensor


def check_finite(name: str, values: Tensor) -> Tensor:
    """Returns the values in float32.

    Args:
        name: What they are, in the plural.
        values: Of any shape.

    Raises:
        TrainingError: One is NaN or infinite.
    """
    if not torch.isfinite(values).all():
        raise TrainingError(
            f"{name} hold {int((~torch.isfinite(values)).sum())} NaN or infinite values of {values.numel()}",
            f"{name} must be finite",
            "Lower the learning rate, or compute without bf16",
            code="TRAINING-011",
        )
    return values.float()


def top_p_support(logits: Tensor, top_p: float) -> Tensor:
    """Returns the smallest set of most probable classes whose mass reaches `top_p`, the class that crosses included.

    Args:
        logits: (B, M), finite.
        top_p: In (0, 1]; 1 keeps all classes exactly.

    Returns:
        (B, M) bool, at least one class per row.

    Raises:
        TrainingError: A logit is not finite.
    """
    logits = check_finite("logits", logits)
    if top_p >= 1.0:
        return torch.ones_like(logits, dtype=torch.bool)
    probabilities, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    mass_before = nn.functional.pad(probabilities.cumsum(-1)[..., :-1], (1, 0))
    # a class stays while the mass before it is below top_p
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, mass_before < top_p)


def support_log_softmax(logits: Tensor, support: Tensor) -> Tensor:
    """Returns `log p_S = z - logsumexp_S z` on the support and -inf outside.

    Args:
        logits: (B, M), finite.
        support: (B, M) bool.

    Returns:
        (B, M) float32.

    Raises:
        TrainingError: A row of the support is empty, or a logit is not finite.
    """
    if not support.any(-1).all():
        raise TrainingError(
            "a support mask without any class",
            "each prompt needs at least one class",
            "Correct the mask",
            code="TRAINING-012",
        )
    return check_finite("logits", logits).masked_fill(~support, -torch.inf).log_softmax(-1)


def sample(
    logits: Tensor, noise: Tensor, tau: float, top_p: float, density: Density = "noise", scale: float = 1.0
) -> SoftSamples:  # fmt: skip
    """Draws samples around `softmax(logits)` restricted to its top-p support.

    Args:
        logits: (B, M) of the old policy, without gradient.
        noise: (B, G, M) standard Gumbel noise.
        tau: Temperature of soft samples, positive.
        top_p: In (0, 1].
        density: Which log density is stored; discrete draws classes, the other two points on the simplex.
        scale: Noise scale s of soft samples, positive; 1 is the published algorithm.

    Returns:
        The samples.
    """
    support = top_p_support(logits, top_p)
    log_probabilities = support_log_softmax(logits, support)  # (B, M)
    inside = support[:, None, :]  # (B, 1, M)
    spread = 1.0 if density == "discrete" else scale  # Gumbel-max draws classes by softmax(z) with unit noise only
    perturbed = (log_probabilities[:, None, :] + spread * noise).masked_fill(~inside, 0.0)  # (B, G, M)
    if density == "discrete":
        chosen = _largest(perturbed, support)
        weights = nn.functional.one_hot(chosen, logits.shape[-1]).float()
    else:
        weights = (perturbed / tau).masked_fill(~inside, -torch.inf).softmax(-1)
    return SoftSamples(support, perturbed, weights, log_density(logits, perturbed, support, tau, density, scale))


def _largest(perturbed: Tensor, support: Tensor) -> Tensor:
    """Returns the class of the largest q on the support, (B, G) int64."""
    return perturbed.masked_fill(~support[:, None, :], -torch.inf).argmax(-1)


def log_density(
    logits: Tensor, perturbed: Tensor, support: Tensor, tau: float, density: Density, scale: float = 1.0
) -> Tensor:
    """Returns the log density of stored samples under a policy, up to a constant that no policy changes.

    noise:    `sum_S log f_s(q_i - log p_i)` with `log f_s(d) = -d / s - exp(-d / s) - log s`, the density of q.
    concrete: `sum_S (a_i - (t + 1) log w_i) - |S| logsumexp_S(a_i - t log w_i)` with `a = log p / s` and `t = tau / s`, the
              density of the weights (Maddison et al. 2017, equation 23): `q / tau = (a + noise) / t`, so they are Concrete with
              location a and temperature t; `-log w_i = logsumexp_S(q / tau) - q_i / tau`.
    discrete: `log p_k` of the class k with the largest q, whatever s.

    Args:
        logits: (B, M) of the policy.
        perturbed: (B, G, M), q.
        support: (B, M) bool, of the old policy.
        tau: Temperature of soft samples.
        density: Which of the three.
        scale: Noise scale s that the samples were drawn with.

    Returns:
        (B, G) float32.
    """
    inside = support[:, None, :]
    log_p = support_log_softmax(logits, support)[:, None, :]  # (B, 1, M)
    if density == "discrete":
        return log_p[:, 0].gather(1, _largest(perturbed, support))
    if density == "noise":
        noise = ((perturbed - log_p) / scale).masked_fill(~inside, 0.0)
        exponential = torch.exp((-noise).clamp_max(_LARGEST_EXPONENT))
        return (-noise - exponential - math.log(scale)).masked_fill(~inside, 0.0).sum(-1)
    scaled = (perturbed / tau).masked_fill(~inside, -torch.inf)
    minus_log_w = scaled.logsumexp(-1, keepdim=True) - perturbed / tau  # (B, G, M)
    location, temperature = log_p / scale, tau / scale
    shifted = (location + temperature * minus_log_w).masked_fill(~inside, -torch.inf)
    terms = (location + (temperature + 1.0) * minus_log_w).masked_fill(~inside, 0.0)
    return terms.sum(-1) - support.sum(-1)[:, None] * shifted.logsumexp(-1)


def equal_rewards(rewards: Tensor) -> Tensor:
    """Returns which groups of (B, G) rewards hold one value only, (B,) bool."""
    return rewards.amax(1) == rewards.amin(1)


def group_advantages(rewards: Tensor, scale: ScaleRewards = "group", step_rewards: Tensor | None = None) -> Tensor:
    """Returns `(R - mean_G R) / (std + 1e-4)`; groups of equal rewards get exactly 0.

    Args:
        rewards: (B, G) finite, G at least 2.
        scale: Standard deviation of the group, of the whole optimiser step, or 1 (names as in TRL).
        step_rewards: All rewards of the optimiser step, of any shape; None takes `rewards` (batch only).

    Returns:
        (B, G) float32.

    Raises:
        TrainingError: A reward is not finite, or G is 1.
    """
    rewards = check_finite("rewards", rewards)
    if rewards.shape[1] < 2:
        raise TrainingError(
            f"G = {rewards.shape[1]} generations",
            "a group needs two to compare",
            "Raise num_generations",
            code="TRAINING-013",
        )
    equal = equal_rewards(rewards)[:, None]
    centred = (rewards - rewards.mean(1, keepdim=True)).masked_fill(equal, 0.0)  # the mean of equal numbers is rounded
    if scale == "none":
        return centred
    together = rewards if step_rewards is None else check_finite("rewards", step_rewards)
    spread = rewards.std(1, keepdim=True) if scale == "group" else together.std()
    return centred / (spread + ADVANTAGE_EPSILON)


@dataclass(frozen=True)
class ClippedLoss:
    """The clipped objective and what is worth logging about it.

    Attributes:
        loss: Scalar, mean of `-min(r A, clip(r) A)` over prompts and generations.
        ratio: (B, G), detached.
        clipped_low: Scalar, share of samples whose gradient the lower bound stops.
        clipped_high: Scalar, share of samples whose gradient the upper bound stops.
    """

    loss: Tensor
    ratio: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def clipped_loss(
    new_density: Tensor,
    old_density: Tensor,
    advantages: Tensor,
    epsilon: float,
    epsilon_high: float,
    delta: float | None = None,
) -> ClippedLoss:
    """Returns PPO's clipped surrogate loss (Schulman et al. 2017), clipped on both sides where `delta` is given (arXiv 2505.07291).

    Args:
        new_density: (B, G) log density under the policy in training, with gradient.
        old_density: (B, G) log density under the sampling policy.
        advantages: (B, G).
        epsilon: The ratio is clipped below at `1 - epsilon`.
        epsilon_high: And above at `1 + epsilon_high`.
        delta: Largest ratio of a sample with a negative advantage, which is unbounded otherwise; None has no such bound.
    """
    ratio = torch.exp(new_density - old_density)
    clipped = ratio.clamp(1.0 - epsilon, 1.0 + epsilon_high)
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    loss = -torch.minimum(bounded * advantages, clipped * advantages).mean()
    low = (ratio < 1.0 - epsilon) & (advantages < 0)
    high = (ratio > 1.0 + epsilon_high) & (advantages > 0) | (ratio > bounded) & (advantages < 0)
    return ClippedLoss(loss, ratio.detach(), low.float().mean(), high.float().mean())


def exact_kl(logits: Tensor, reference: Tensor) -> Tensor:
    """Returns `KL(p || p_ref) = sum_m p_m (log p_m - log p_ref_m)` over all M classes, (B,) float32.

    Args:
        logits: (B, M) of the policy in training.
        reference: (B, M) of the frozen reference.
    """
    log_p = check_finite("logits", logits).log_softmax(-1)
    log_reference = check_finite("reference logits", reference).log_softmax(-1)
    return (log_p.exp() * (log_p - log_reference)).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """Returns the entropy of `softmax(logits)` in nats, (B,) float32."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
