"""`SoftGRPOConfig`: the arguments of `SoftGRPOTrainer`, on TRL's base config."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from trl.trainer.base_config import _BaseConfig

from softgrpo.algorithm.soft_grpo import ImportanceRatio, ScaleRewards
from softgrpo.errors import ConfigError


@dataclass
class SoftGRPOConfig(_BaseConfig):
    """Arguments of `SoftGRPOTrainer`, beside those of `transformers.TrainingArguments`; names as in TRL where TRL has them.

    Other than in TRL, activation checkpointing is off unless asked for: a prompt is short and there is no completion. Prompts of
    similar length share a batch (`train_sampling_strategy`; random is the other choice).

    Args:
        num_generations: Soft samples per prompt (G), at least 2.
        num_iterations: Optimiser steps per set of samples.
        sampling: soft (points on the simplex) or discrete (one class per sample: ordinary GRPO, for comparison).
        tau_gumbel: Temperature of the samples, positive (soft only).
        top_p: Mass of the classes that are sampled, in (0, 1].
        importance_ratio: noise or concrete (soft only).
        epsilon: Lower clip range, and the upper one where epsilon_high is None.
        epsilon_high: Upper clip range.
        beta: Weight of the exact KL divergence from the model as it is before training.
        scale_rewards: What advantages are divided by: the standard deviation of the group, of the batch (all prompts of one
            optimiser step; with accumulation or several processes this takes one more forward pass), or none.
        disable_dropout: Switch dropout off, so that old and new policy are the same function.
    """

    num_generations: int = field(default=4, metadata={"help": "Soft samples per prompt (G)."})
    num_iterations: int = field(default=1, metadata={"help": "Optimiser steps per set of samples."})
    sampling: Literal["soft", "discrete"] = field(default="soft", metadata={"help": "soft or discrete."})
    tau_gumbel: float = field(default=1.0, metadata={"help": "Temperature of the samples."})
    top_p: float = field(default=0.9, metadata={"help": "Mass of the classes that are sampled."})
    importance_ratio: ImportanceRatio = field(default="noise", metadata={"help": "noise or concrete."})
    epsilon: float = field(default=0.2, metadata={"help": "Lower clip range of the ratio."})
    epsilon_high: float | None = field(default=None, metadata={"help": "Upper clip range; None takes epsilon."})
    beta: float = field(default=0.01, metadata={"help": "Weight of the exact KL divergence."})
    scale_rewards: ScaleRewards = field(default="group", metadata={"help": "group, batch or none."})
    disable_dropout: bool = field(default=True, metadata={"help": "Switch dropout off."})
    activation_checkpointing: bool | None = field(default=False, metadata={"help": "Recompute activations."})
    train_sampling_strategy: str = field(default="group_by_length", metadata={"help": "group_by_length or random."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The reward needs all columns."})

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
            ("top_p", 0 < self.top_p <= 1, "it must be in (0, 1]"),
            ("importance_ratio", self.importance_ratio in ("noise", "concrete"), "it must be noise or concrete"),
            ("epsilon", self.epsilon >= 0, "it must not be negative"),
            ("epsilon_high", self.epsilon_high is None or self.epsilon_high >= 0, "it must not be negative"),
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
                raise ConfigError(f"{name} = {getattr(self, name)}", rule, f"Correct {name}")
