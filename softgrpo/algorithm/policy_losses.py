"""The policy losses of TRL's GRPO trainer, for actions of one step.

Where an action is one step, a sequence has length 1. Then `grpo`, `bnpo`, `dr_grpo` and `dapo`, which differ in how they average
over the tokens of sequences, and `luspo`, which multiplies by the length, are one loss: the mean over all samples. `cispo`, `sapo`
and `vespo` differ, as they treat the importance ratio r in another way. Legend: B prompts, G generations.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from softgrpo.algorithm.soft_grpo import ClippedLoss, clipped_loss

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"]
LOSS_TYPES: tuple[LossType, ...] = get_args(LossType)
CLIPPED: tuple[LossType, ...] = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""Those that coincide for actions of one step: the clipped objective."""
_LOWEST_LOG_RATIO, _HIGHEST_LOG_RATIO = math.log(1e-8), 20.0
"""Bounds of the log ratio in `vespo`, as in TRL."""


class LossSettings(Protocol):
    """The settings of a loss, see `SoftGRPOConfig`."""

    loss_type: LossType
    epsilon: float
    epsilon_high: float | None
    delta: float | None
    sapo_temperature_pos: float
    sapo_temperature_neg: float
    vespo_k_pos: float
    vespo_lambda_pos: float
    vespo_k_neg: float
    vespo_lambda_neg: float


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, settings: LossSettings) -> ClippedLoss:
    """Returns a policy loss, the mean over all samples of

    - `-min(r A, clip(r) A)`, see `clipped_loss`, for the five that coincide;
    - cispo (arXiv 2506.13585): `-min(r, epsilon_high) A log p`, the first factor without gradient;
    - sapo (arXiv 2511.20347): `-4 / t sigmoid(t (r - 1)) A`, t the temperature of the advantage's sign;
    - vespo (arXiv 2602.10693): `-exp(l + k log r - l r) A log p`, the exponential without gradient, k and l of the sign.

    Args:
        new: (B, G) log density under the policy in training, with gradient.
        old: (B, G) log density under the sampling policy.
        advantages: (B, G).
        settings: Which loss, and its numbers.
    """
    high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    if settings.loss_type in CLIPPED:
        return clipped_loss(new, old, advantages, settings.epsilon, high, settings.delta)
    ratio = torch.exp(new - old)
    capped = torch.zeros_like(ratio)
    if settings.loss_type == "cispo":
        losses = -ratio.clamp(max=high).detach() * advantages * new
        capped = ((ratio > high) & (advantages > 0)).float()
    elif settings.loss_type == "sapo":
        positive = advantages > 0
        temperature = torch.where(positive, settings.sapo_temperature_pos, settings.sapo_temperature_neg)
        losses = -4.0 / temperature * torch.sigmoid(temperature * (ratio - 1.0)) * advantages
    else:
        losses = -_vespo_weight((new - old).detach(), advantages, settings) * advantages * new
    return ClippedLoss(losses.mean(), ratio.detach(), torch.zeros_like(capped.mean()), capped.mean())


def _vespo_weight(log_ratio: Tensor, advantages: Tensor, settings: LossSettings) -> Tensor:
    """Returns `exp(l + k log r - l r)`, (B, G): 1 at r = 1, and less for ratios far from `k / l`."""
    log_ratio = log_ratio.clamp(_LOWEST_LOG_RATIO, _HIGHEST_LOG_RATIO)
    positive = advantages >= 0
    power = torch.where(positive, settings.vespo_k_pos, settings.vespo_k_neg)
    decay = torch.where(positive, settings.vespo_lambda_pos, settings.vespo_lambda_neg).clamp(min=1e-4)
    return torch.exp(decay + power * log_ratio - decay * log_ratio.exp())
