"""`SoftGRPOTrainer`: SofT-GRPO on TRL's base trainer, for any problem whose action is a point on a simplex.

A data set of prompts (`input_ids` and any columns of your own), a sequence classifier, and a reward
`(weights (B, G, M), batch) -> (B, G)`. A prompt is never repeated: one forward pass serves all G samples.
Legend: B prompts, G generations, M classes.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase
from trl.trainer.base_config import _BaseConfig
from trl.trainer.base_trainer import _BaseTrainer

from softgrpo.errors import ConfigError, TrainingError
from softgrpo.soft_grpo import (
    ImportanceRatio,
    ScaleRewards,
    SoftSamples,
    clipped_loss,
    entropy,
    exact_kl,
    group_advantages,
    gumbel_noise,
    log_density,
    sample,
)
from softgrpo.training import LogitsEvaluation, PromptCollator, Row, policy_logits, predict_logits

logger = logging.getLogger(__name__)

RewardFunction = Callable[[Tensor, Mapping[str, Any]], Tensor]


@dataclass
class SoftGRPOConfig(_BaseConfig):
    """Arguments of `SoftGRPOTrainer`, beside those of `transformers.TrainingArguments`; names as in TRL where TRL has them.

    Other than in TRL, activation checkpointing is off unless asked for: a prompt is short and there is no completion.

    Args:
        num_generations: Soft samples per prompt (G), at least 2.
        num_iterations: Optimiser steps per set of samples.
        tau_gumbel: Temperature of the samples, positive.
        top_p: Mass of the classes that are sampled, in (0, 1].
        importance_ratio: noise or concrete.
        epsilon: Lower clip range, and the upper one where epsilon_high is None.
        epsilon_high: Upper clip range.
        beta: Weight of the exact KL divergence from the model as it is before training.
        scale_rewards: group, batch (the prompts of one forward pass) or none.
        disable_dropout: Switch dropout off, so that old and new policy are the same function.
    """

    num_generations: int = field(default=4, metadata={"help": "Soft samples per prompt (G)."})
    num_iterations: int = field(default=1, metadata={"help": "Optimiser steps per set of samples."})
    tau_gumbel: float = field(default=1.0, metadata={"help": "Temperature of the samples."})
    top_p: float = field(default=0.9, metadata={"help": "Mass of the classes that are sampled."})
    importance_ratio: ImportanceRatio = field(default="noise", metadata={"help": "noise or concrete."})
    epsilon: float = field(default=0.2, metadata={"help": "Lower clip range of the ratio."})
    epsilon_high: float | None = field(default=None, metadata={"help": "Upper clip range; None takes epsilon."})
    beta: float = field(default=0.01, metadata={"help": "Weight of the exact KL divergence."})
    scale_rewards: ScaleRewards = field(default="group", metadata={"help": "group, batch or none."})
    disable_dropout: bool = field(default=True, metadata={"help": "Switch dropout off."})
    activation_checkpointing: bool | None = field(default=False, metadata={"help": "Recompute activations."})

    def __post_init__(self) -> None:
        """Checks the values that the base class does not know.

        Raises:
            ConfigError: One is outside its range.
        """
        super().__post_init__()  # type: ignore[no-untyped-call]
        rules: list[tuple[str, bool, str]] = [
            ("num_generations", self.num_generations >= 2, "a group needs at least 2 samples to compare"),
            ("num_iterations", self.num_iterations >= 1, "it must be at least 1"),
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


class GroupSampler(Sampler[int]):
    """Draws rows without replacement in groups, and gives every group `repeats` times before the next.

    The last group is filled up from the start of the epoch's order. The order depends on (seed, epoch) only.

    Args:
        rows: Number of rows.
        group: Rows per group: those of one optimiser step.
        repeats: Optimiser steps per group.
        seed: Of the order.
    """

    def __init__(self, rows: int, group: int, repeats: int, seed: int) -> None:
        self._rows, self._group, self._repeats, self._seed, self._epoch = rows, group, repeats, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._rows // self._group) * self._group * self._repeats

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(self._rows)
        filled = np.resize(order, len(self) // self._repeats).reshape(-1, self._group)
        return iter(np.repeat(filled[:, None], self._repeats, axis=1).ravel().tolist())


@dataclass(frozen=True)
class _Experience:
    """Samples of one forward pass, kept for `num_iterations` steps."""

    rows: Tensor  # (B,)
    samples: SoftSamples
    advantages: Tensor  # (B, G)


class SoftGRPOTrainer(LogitsEvaluation, _BaseTrainer):  # type: ignore[misc]  # two annotations of one attribute
    """Trains a sequence classifier by SofT-GRPO.

    Args:
        model: Token ids (B, L) to logits (B, M).
        reward: `(weights (B, G, M), batch) -> (B, G)`; the batch holds every column of the data set and `index`.
        args: The arguments.
        train_dataset: Rows with `input_ids` and `index` (its own number), see `softgrpo.training.PromptRows`.
        processing_class: The tokenizer.
        **kwargs: For `transformers.Trainer` (eval_dataset, compute_metrics, callbacks, ...).
    """

    _name = "SofT-GRPO"
    args: SoftGRPOConfig
    model: nn.Module
    train_dataset: Dataset[Row]
    data_collator: PromptCollator

    def __init__(
        self,
        model: nn.Module,
        reward: RewardFunction,
        args: SoftGRPOConfig,
        train_dataset: Dataset[Row],
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        if args.disable_dropout:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        super().__init__(  # type: ignore[no-untyped-call]
            model=model,
            args=args,
            data_collator=PromptCollator(processing_class),
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.reward = reward
        self.reference_logits: Tensor | None = None
        self._buffer: dict[int, _Experience] = {}
        self._micro_step: int | None = None
        self._numbers: dict[str, list[float]] = defaultdict(list)
        self._warned = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the reference logits of all training rows once (beta > 0), then trains; arguments as in transformers."""
        if self.args.beta > 0 and self.reference_logits is None:
            self.reference_logits = predict_logits(
                self.model,
                self.train_dataset,
                self.data_collator,
                self.args.per_device_eval_batch_size,
                bool(self.args.bf16),
                "reference",
            )
        self._micro_step = None
        return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset[Row] | None = None) -> Sampler[int]:
        args, rows = self.args, self.train_dataset
        assert isinstance(rows, Sized)
        group = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return GroupSampler(len(rows), group, args.num_iterations, args.seed)

    def _noise(self, rows: Tensor, generation: int, classes: int) -> Tensor:
        """Returns (B, G, M) noise that depends on (seed, generation, row) only, so batch size and resuming change nothing."""
        noise = []
        for row in rows.tolist():
            state = np.random.SeedSequence([self.args.seed, generation, row]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
            noise.append(gumbel_noise((self.args.num_generations, classes), generator))
        return torch.stack(noise).to(rows.device)

    def _draw(self, logits: Tensor, batch: Mapping[str, Any], generation: int) -> _Experience:
        args, old = self.args, logits.detach()
        noise = self._noise(batch["index"], generation, old.shape[-1])
        samples = sample(old, noise, args.tau_gumbel, args.top_p, args.importance_ratio)
        rewards = self.reward(samples.weights, batch).float()
        if rewards.shape != samples.weights.shape[:2]:
            raise TrainingError(
                f"rewards of shape {tuple(rewards.shape)}",
                f"the reward of weights (B, G, M) is (B, G) = {tuple(samples.weights.shape[:2])}",
                "Correct the reward function",
            )
        single_class = (samples.support.sum(-1) == 1).float().mean().item()
        if single_class > 0.5 and old.shape[-1] > 1 and not self._warned:
            self._warned = True
            logger.warning(
                "%.0f %% of the prompts keep one class at top_p = %g and teach nothing", 100 * single_class, args.top_p
            )
        self._note(
            reward=rewards.mean(),
            reward_std=rewards.std(1).mean(),
            frac_reward_zero_std=(rewards.std(1) == 0).float().mean(),
            frac_support_one=single_class,
            **{f"sampled_weight_{index}": weight for index, weight in enumerate(samples.weights.mean((0, 1)))},
        )
        return _Experience(batch["index"], samples, group_advantages(rewards, args.scale_rewards))

    def _note(self, **numbers: Tensor | float) -> None:
        for name, value in numbers.items():
            self._numbers[name].append(float(value))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Returns the loss of one batch of prompts; samples are drawn on the first of `num_iterations` visits."""
        args = self.args
        if self._micro_step is None:
            self._micro_step = self.state.global_step * args.gradient_accumulation_steps
        step, slot = divmod(self._micro_step, args.gradient_accumulation_steps)
        generation, iteration = divmod(step, args.num_iterations)
        self._micro_step += 1

        logits = policy_logits(model, inputs)
        if iteration == 0:
            self._buffer[slot] = self._draw(logits, inputs, generation)
        elif slot not in self._buffer:
            raise TrainingError(
                f"a start at step {step}",
                f"samples are drawn at multiples of num_iterations = {args.num_iterations} and are not part of a checkpoint",
                "Resume from a checkpoint at such a step",
            )
        experience = self._buffer[slot]
        assert torch.equal(experience.rows, inputs["index"])
        samples = experience.samples
        density = log_density(logits, samples.perturbed, samples.support, args.tau_gumbel, args.importance_ratio)
        epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
        clipped = clipped_loss(density, samples.log_density, experience.advantages, args.epsilon, epsilon_high)
        loss = clipped.loss
        if args.beta > 0:
            assert self.reference_logits is not None
            divergence = exact_kl(logits, self.reference_logits[inputs["index"].cpu()].to(logits.device)).mean()
            loss = loss + args.beta * divergence
            self._note(kl=divergence.detach())
        self._note(
            policy_entropy=entropy(logits.detach()).mean(),
            ratio_mean=clipped.ratio.mean(),
            ratio_min=clipped.ratio.min(),
            ratio_max=clipped.ratio.max(),
            clip_ratio_low=clipped.clipped_low,
            clip_ratio_high=clipped.clipped_high,
        )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the numbers since the last log: means, but minima and maxima of the ratio."""
        if "loss" in logs:
            reduce = {"ratio_min": min, "ratio_max": max}
            logs |= {name: float(reduce.get(name, np.mean)(values)) for name, values in self._numbers.items()}
            self._numbers.clear()
        super().log(logs, start_time)
