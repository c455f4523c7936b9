"""`SoftGRPOConfig`: the arguments of `SoftGRPOTrainer`, on TRL's base config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from trl.trainer.base_config import _BaseConfig

from softgrpo.algorithm.noise import NoiseKind
from softgrpo.algorithm.policy_losses import CLIPPED, LOSS_TYPES, LossType
from softgrpo.algorithm.prompt_trainer import CHECKPOINTING
from softgrpo.algorithm.reward_functions import Aggregation
from softgrpo.algorithm.soft_grpo import ImportanceRatio, ScaleRewards
from softgrpo.errors import ConfigError

Rule = tuple[str, bool, str]
"""Name of a setting, whether it holds a legal value, and what is legal."""
LEAST_NOISE_SCALE = 1e-3
"""A log probability in float32 is rounded by up to 5e-7 where it is near -10. Its density divides that by the scale, so that noise
of a smaller scale would drown in the rounding, and at last the division overflows."""
_LEGAL_NOISE_SCALE = f"it must be at least {LEAST_NOISE_SCALE:g}, finite"
_OF_SAPO = ("sapo_temperature_pos", "sapo_temperature_neg")
_OF_VESPO = ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")


@dataclass
class SoftGRPOConfig(_BaseConfig):
    """Arguments of `SoftGRPOTrainer`, beside those of `transformers.TrainingArguments`; names as in TRL where TRL has them.

    Other than in TRL, activation checkpointing is off unless asked for: a prompt is short and there is no completion. Prompts of
    similar length share a batch (`train_sampling_strategy`; random is the other choice).

    The settings of the pipeline are described here in the words of `softgrpo.config.GRPOConfig`; a test compares the two. Those
    from `disable_dropout` on are the trainer's alone.

    Args:
        num_generations: Soft samples per prompt (G).
        num_iterations: Optimiser steps per set of samples; from the second on the importance ratio differs from 1 and
            clipping acts.
        sampling: soft: weights from the Gumbel-softmax; discrete: one class per sample, ordinary GRPO for comparison.
        tau_gumbel: Temperature of the Gumbel-softmax samples (soft only).
        noise: Noise of a prompt's samples. independent: as published; quasi: a scrambled Sobol' sequence, which fills the space
            evenly, so that the gradient varies less (a quarter of the variance at 64 samples); each sample alone has the same law.
        noise_scale: Factor s of the Gumbel noise (soft only). 1 is the published algorithm, whose samples lie anywhere on the
            simplex, so that what is best for them is not best for softmax(z); 0.25, the default of the pipeline, keeps them near
            the policy.
        noise_scale_end: Noise scale of the last samples, reached on a line from noise_scale; None keeps it constant.
        top_p: Mass of the classes that are sampled; the class that crosses it is included, 1 keeps all. The published 0.9 shuts out
            the last classes where the first ones hold nine tenths of the mass.
        importance_ratio: Density behind the ratio: the Gumbel noise, or the Concrete distribution of the weights (same mean, less
            variance); soft only.
        epsilon: Lower clip range of the importance ratio, and the upper one where epsilon_high is None.
        epsilon_high: Upper clip range of the importance ratio; None takes epsilon.
        delta: Largest importance ratio of samples that did worse than the others of their prompt, above 1 + epsilon_high (two-sided
            clipping); None sets no bound.
        entropy_coef: Weight of the policy's mean entropy, which the loss is lowered by: larger ones keep weights from collapsing.
        beta: Weight of the exact KL divergence from the model as it is before training.
        scale_rewards: Standard deviation that advantages are divided by: of a prompt's samples, of all prompts of an optimiser
            step, or none.
        disable_dropout: Switch dropout off, so that old and new policy are the same function.
        reward_weights: Weight of each reward function in the sum; None weighs all by 1.
        multi_objective_aggregation: sum_then_normalize: add the weighted rewards up, then scale as `scale_rewards` says;
            normalize_then_sum: normalise each function's rewards in their group, add them up, and divide by the standard deviation
            over the optimiser step.
        loss_type: grpo, bnpo, dr_grpo, dapo and luspo are one loss where an action is one step, the clipped objective; cispo, sapo
            and vespo differ, see `softgrpo.algorithm.policy_losses`. For cispo `epsilon_high` is the largest ratio, such as 5.
        sapo_temperature_pos: Temperature of samples with a positive advantage (sapo only).
        sapo_temperature_neg: And of all others.
        vespo_k_pos: Power of the ratio of samples whose advantage is not negative (vespo only).
        vespo_lambda_pos: And its decay.
        vespo_k_neg: Power of the ratio of samples with a negative advantage (vespo only).
        vespo_lambda_neg: And its decay.
        sync_ref_model: Let the reference of the KL divergence follow the policy; costs one forward pass more for each set of
            samples, and needs beta > 0.
        ref_model_mixup_alpha: Share a of the policy in `reference = a policy + (1 - a) reference` at each synchronisation.
        ref_model_sync_steps: Optimiser steps between two synchronisations.
        log_completions: With every log of the steps, print the last samples as a table, and write it to `completions` in the
            output folder.
        num_completions_to_print: Samples to print, drawn at random; None prints all. The file holds all in any case.
    """

    num_generations: int = 4
    num_iterations: int = 1
    sampling: Literal["soft", "discrete"] = "soft"
    tau_gumbel: float = 1.0
    noise: NoiseKind = "independent"
    noise_scale: float = 1.0
    noise_scale_end: float | None = None
    top_p: float = 0.9
    importance_ratio: ImportanceRatio = "noise"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    entropy_coef: float = 0.0
    beta: float = 0.01
    scale_rewards: ScaleRewards = "group"
    disable_dropout: bool = True
    reward_weights: list[float] | None = None
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    loss_type: LossType = "grpo"
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512
    log_completions: bool = False
    num_completions_to_print: int | None = None
    activation_checkpointing: bool | None = False
    gradient_checkpointing: bool | None = None  # type: ignore[assignment]
    train_sampling_strategy: str = "group_by_length"
    remove_unused_columns: bool = False

    @property
    def _upper_clip(self) -> float:
        return 1.0 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)

    def __post_init__(self) -> None:
        """Checks the values that the base class does not know.

        Raises:
            ConfigError: One is outside its range.
        """
        setattr(self, CHECKPOINTING, getattr(self, CHECKPOINTING) or self.activation_checkpointing)
        super().__post_init__()  # type: ignore[no-untyped-call]
        if isinstance(self.scale_rewards, bool):  # TRL's earlier form
            self.scale_rewards = "group" if self.scale_rewards else "none"  # type: ignore[unreachable]
        for name, holds, rule in (*self._rules_of_samples(), *self._rules_of_loss(), *self._rules_of_reports()):
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)}", rule, f"Correct {name}", code="CONFIG-042")

    def _rules_of_samples(self) -> list[Rule]:
        return [
            ("num_generations", self.num_generations >= 2, "a group needs at least 2 samples to compare"),
            ("num_iterations", self.num_iterations >= 1, "it must be at least 1"),
            ("sampling", self.sampling in ("soft", "discrete"), "it must be soft or discrete"),
            ("tau_gumbel", 0 < self.tau_gumbel < math.inf, "it must be positive and finite"),
            ("noise", self.noise in ("independent", "quasi"), "it must be independent or quasi"),
            ("noise_scale", LEAST_NOISE_SCALE <= self.noise_scale < math.inf, _LEGAL_NOISE_SCALE),
            (
                "noise_scale_end",
                self.noise_scale_end is None or LEAST_NOISE_SCALE <= self.noise_scale_end < math.inf,
                _LEGAL_NOISE_SCALE,
            ),
            ("top_p", 0 < self.top_p <= 1, "it must be in (0, 1]"),
        ]

    def _rules_of_loss(self) -> list[Rule]:
        clipped = self.loss_type in CLIPPED
        return [
            ("importance_ratio", self.importance_ratio in ("noise", "concrete"), "it must be noise or concrete"),
            ("epsilon", self.epsilon >= 0, "it must not be negative"),
            ("epsilon_high", self.epsilon_high is None or self.epsilon_high >= 0, "it must not be negative"),
            (
                "delta",
                self.delta is None or self._upper_clip < self.delta < math.inf,
                "it must be above 1 + epsilon_high, finite",
            ),
            (
                "delta",
                self.delta is None or clipped,
                f"loss_type {self.loss_type} does not clip on two sides; it must be None",
            ),
            ("loss_type", self.loss_type in LOSS_TYPES, f"it must be one of {', '.join(LOSS_TYPES)}"),
            (
                "epsilon_high",
                self.loss_type != "cispo" or (self.epsilon_high is not None and self.epsilon_high >= 1),
                "for loss_type cispo it is the largest ratio: at least 1, such as 5",
            ),
            *(
                (name, 0 < getattr(self, name) < math.inf, "it must be positive and finite")
                for name in (*_OF_SAPO, *_OF_VESPO)
            ),
            ("entropy_coef", 0 <= self.entropy_coef < math.inf, "it must be finite and not negative"),
            ("beta", 0 <= self.beta < math.inf, "it must be finite and not negative"),
            ("scale_rewards", self.scale_rewards in ("group", "batch", "none"), "it must be group, batch or none"),
            (
                "multi_objective_aggregation",
                self.multi_objective_aggregation in get_args(Aggregation),
                f"it must be one of {', '.join(get_args(Aggregation))}",
            ),
            ("sync_ref_model", not self.sync_ref_model or self.beta > 0, "without beta > 0 there is no reference"),
            ("ref_model_mixup_alpha", 0 <= self.ref_model_mixup_alpha <= 1, "it must be in [0, 1]"),
            ("ref_model_sync_steps", self.ref_model_sync_steps >= 1, "it must be at least 1"),
        ]

    def _rules_of_reports(self) -> list[Rule]:
        return [
            (
                "num_completions_to_print",
                self.num_completions_to_print is None or self.num_completions_to_print >= 1,
                "it must be at least 1",
            ),
            (
                "save_steps",
                self.num_iterations == 1 or self.save_strategy != "steps" or self.save_steps % self.num_iterations == 0,
                f"checkpoints fall between sets of samples: a multiple of num_iterations = {self.num_iterations}",
            ),
        ]
