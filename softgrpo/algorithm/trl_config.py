"""`SoftGRPOConfig`: the arguments of `SoftGRPOTrainer`, on TRL's base config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trl.trainer.base_config import _BaseConfig

from softgrpo.algorithm.noise import NoiseKind
from softgrpo.algorithm.soft_grpo import ImportanceRatio, ScaleRewards
from softgrpo.errors import ConfigError


@dataclass
class SoftGRPOConfig(_BaseConfig):
    """Arguments of `SoftGRPOTrainer`, beside those of `transformers.TrainingArguments`; names as in TRL where TRL has them.

    Other than in TRL, activation checkpointing is off unless asked for: a prompt is short and there is no completion. Prompts of
    similar length share a batch (`train_sampling_strategy`; random is the other choice).

    The settings are described here, in the words of `softgrpo.config.GRPOConfig`; a test compares the two.

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
    activation_checkpointing: bool | None = False
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
        super().__post_init__()  # type: ignore[no-untyped-call]
        rules: list[tuple[str, bool, str]] = [
            ("num_generations", self.num_generations >= 2, "a group needs at least 2 samples to compare"),
            ("num_iterations", self.num_iterations >= 1, "it must be at least 1"),
            ("sampling", self.sampling in ("soft", "discrete"), "it must be soft or discrete"),
            ("tau_gumbel", 0 < self.tau_gumbel < math.inf, "it must be positive and finite"),
            ("noise", self.noise in ("independent", "quasi"), "it must be independent or quasi"),
            ("noise_scale", 0 < self.noise_scale < math.inf, "it must be positive and finite"),
            (
                "noise_scale_end",
                self.noise_scale_end is None or 0 < self.noise_scale_end < math.inf,
                "it must be positive and finite",
            ),
            ("top_p", 0 < self.top_p <= 1, "it must be in (0, 1]"),
            ("importance_ratio", self.importance_ratio in ("noise", "concrete"), "it must be noise or concrete"),
            ("epsilon", self.epsilon >= 0, "it must not be negative"),
            ("epsilon_high", self.epsilon_high is None or self.epsilon_high >= 0, "it must not be negative"),
            (
                "delta",
                self.delta is None or self._upper_clip < self.delta < math.inf,
                "it must be above 1 + epsilon_high, finite",
            ),
            ("entropy_coef", 0 <= self.entropy_coef < math.inf, "it must be finite and not negative"),
            ("beta", 0 <= self.beta < math.inf, "it must be finite and not negative"),
            ("scale_rewards", self.scale_rewards in ("group", "batch", "none"), "it must be group, batch or none"),
            (
                "save_steps",
                self.num_iterations == 1 or self.save_strategy != "steps" or self.save_steps % self.num_iterations == 0,
                f"checkpoints fall between sets of samples: a multiple of num_iterations = {self.num_iterations}",
            ),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)}", rule, f"Correct {name}", code="CONFIG-042")
