"""The losses of TRL's trainer for actions of one step: TRL's own code is the oracle, and a few values are by hand."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from softgrpo.algorithm.policy_losses import CLIPPED, LOSS_TYPES, policy_loss
from softgrpo.algorithm.trl_config import SoftGRPOConfig

OLD = torch.tensor([[-1.0, -2.0, -0.5, -3.0], [-1.5, -0.7, -2.2, -1.1]])
ADVANTAGES = torch.tensor([[1.0, -0.5, 0.0, 2.0], [-1.2, 0.3, 0.8, -2.0]])
SHIFTS = torch.tensor([[0.1, -0.4, 0.7, 1.8], [0.9, -0.1, -1.6, 0.0]])  # ratios from 0.2 to 6


def settings(folder: Path, kind: str) -> SoftGRPOConfig:
    """Returns the arguments with one loss."""
    high = 5.0 if kind == "cispo" else 0.28
    return SoftGRPOConfig(str(folder), use_cpu=True, bf16=False, loss_type=kind, epsilon_high=high)  # type: ignore[arg-type]


def by_trl(kind: str, args: SoftGRPOConfig, new: Tensor) -> Tensor:
    """Returns TRL's loss of B * G completions of one token, without KL divergence and entropy."""
    flat = new.reshape(-1, 1)
    ones = torch.ones_like(flat)
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (flat, torch.zeros_like(flat), None),
        model=SimpleNamespace(training=True), loss_type=kind, beta=0.0, epsilon_low=args.epsilon,
        epsilon_high=args.epsilon_high, max_completion_length=1, importance_sampling_level="token",
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False, entropy_coef=0.0, router_aux_loss_coef=None,
        aux_loss_enabled=False, num_iterations=1, temperature=1.0,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda value: value, reduce=lambda value, reduction: value),
        _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(
            delta=args.delta, use_bias_correction_kl=False, steps_per_generation=1,
            sapo_temperature_pos=args.sapo_temperature_pos, sapo_temperature_neg=args.sapo_temperature_neg,
            vespo_k_pos=args.vespo_k_pos, vespo_lambda_pos=args.vespo_lambda_pos,
            vespo_k_neg=args.vespo_k_neg, vespo_lambda_neg=args.vespo_lambda_neg,
        ),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
    )  # fmt: skip
    inputs = {
        "prompt_ids": ones.long(), "prompt_mask": ones.long(), "completion_ids": ones.long(), "completion_mask": ones,
        "advantages": ADVANTAGES.flatten(), "old_per_token_logps": OLD.reshape(-1, 1),
        "num_items_in_batch": torch.tensor(float(flat.numel())),
    }  # fmt: skip
    loss: Tensor = GRPOTrainer._compute_loss(trainer, SimpleNamespace(), inputs)
    return loss


@pytest.mark.parametrize("kind", LOSS_TYPES)
def test_loss_and_gradient_are_those_of_trl_for_one_token(kind: str, tmp_path: Path) -> None:
    args = settings(tmp_path, kind)
    gradients, values = [], []
    for loss in (policy_loss, by_trl):
        new = (OLD + SHIFTS).requires_grad_()
        value = loss(new, OLD, ADVANTAGES, args).loss if loss is policy_loss else loss(kind, args, new)
        value.backward()
        gradients.append(new.grad)
        values.append(value.detach())
    assert torch.allclose(*values, atol=1e-6) and torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].abs().max() > 0.01


def test_five_names_are_one_loss_and_three_are_others(tmp_path: Path) -> None:
    values = {}
    for kind in LOSS_TYPES:
        args = settings(tmp_path, kind)
        args.epsilon_high = 5.0  # the same for all
        values[kind] = round(policy_loss(OLD + SHIFTS, OLD, ADVANTAGES, args).loss.item(), 6)
    assert CLIPPED == ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
    assert len({values[kind] for kind in CLIPPED}) == 1 and len(set(values.values())) == 4


def test_the_losses_of_one_sample_by_hand(tmp_path: Path) -> None:
    new, old, one = torch.tensor([[math.log(3.0)]]), torch.zeros(1, 1), torch.ones(1, 1)  # r = 3, A = 1
    cispo = policy_loss(
        new, old, one, SoftGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, loss_type="cispo", epsilon_high=2.0)
    )
    assert cispo.loss.item() == pytest.approx(-2.0 * math.log(3.0))  # r is cut at 2
    assert cispo.clipped_high.item() == 1.0
    sapo = policy_loss(new, old, one, settings(tmp_path, "sapo"))
    assert sapo.loss.item() == pytest.approx(-4 / (1 + math.exp(-2.0)))  # 4 sigmoid(3 - 1)
    vespo = policy_loss(new, old, one, settings(tmp_path, "vespo"))
    assert vespo.loss.item() == pytest.approx(-math.exp(3.0 - 3.0 * 3.0) * 9.0 * math.log(3.0))  # exp(l - l r) r^k
    worse = policy_loss(new, old, -one, settings(tmp_path, "sapo"))
    assert worse.loss.item() == pytest.approx(4 / 1.05 / (1 + math.exp(-1.05 * 2.0)))


@pytest.mark.parametrize("kind", ["cispo", "sapo", "vespo"])
def test_at_the_policy_that_drew_the_samples_every_gradient_is_the_same(kind: str, tmp_path: Path) -> None:
    """At r = 1 all losses have the gradient -A / n of the policy gradient."""
    new = OLD.clone().requires_grad_()
    policy_loss(new, OLD, ADVANTAGES, settings(tmp_path, kind)).loss.backward()
    assert new.grad is not None and torch.allclose(new.grad, -ADVANTAGES / 8, atol=1e-6)
