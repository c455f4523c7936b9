"""`SoftGRPOTrainer`: SofT-GRPO on TRL's base trainer, for any problem whose action is a point on a simplex.

A data set of prompts (`input_ids` and any columns of your own), a sequence classifier, and a reward
`(weights (B, G, M), batch) -> (B, G)`. A prompt is never repeated: one forward pass serves all G samples.
Legend: B prompts, G generations, M classes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from transformers import PreTrainedTokenizerBase
from trl.trainer.base_trainer import _BaseTrainer

from softgrpo.algorithm.batching import PromptCollator, Row, policy_logits, predict_logits
from softgrpo.algorithm.checkpoints import read_reference, write_reference
from softgrpo.algorithm.noise import row_noise, scale_of_draw
from softgrpo.algorithm.prompt_trainer import PromptTrainer, switch_dropout_off
from softgrpo.algorithm.soft_grpo import (
    Density,
    SoftSamples,
    clipped_loss,
    entropy,
    equal_rewards,
    exact_kl,
    group_advantages,
    log_density,
    sample,
)
from softgrpo.algorithm.trl_config import SoftGRPOConfig
from softgrpo.errors import TrainingError

__all__ = ["RewardFunction", "SoftGRPOConfig", "SoftGRPOTrainer"]

logger = logging.getLogger(__name__)

RewardFunction = Callable[[Tensor, Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class _Experience:
    """Samples of one micro batch, kept for `num_iterations` steps."""

    rows: Tensor  # (B,)
    samples: SoftSamples
    advantages: Tensor  # (B, G)


class SoftGRPOTrainer(PromptTrainer, _BaseTrainer):  # type: ignore[misc]  # two annotations of one attribute
    """Trains a sequence classifier by SofT-GRPO.

    Args:
        model: Token ids (B, L) to logits (B, M).
        reward: `(weights (B, G, M), batch) -> (B, G)`; the batch holds every column of the data set and `index`.
        args: The arguments.
        train_dataset: Rows with `input_ids` and `index` (its own number), see `softgrpo.algorithm.batching.PromptRows`.
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
            switch_dropout_off(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=PromptCollator(processing_class),
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.reward = reward
        self.repeats = args.num_iterations
        self.reference_logits: Tensor | None = None
        self._density: Density = "discrete" if args.sampling == "discrete" else args.importance_ratio
        self._buffer: dict[int, _Experience] = {}
        self._generation, self._slot = 0, 0
        self._warned = False

    # ---------------------------------------------------------------- reference

    def prepare(self, checkpoint: Path | None) -> None:
        """Computes the logits of all training rows once, before training (beta > 0); a checkpoint holds them."""
        super().prepare(checkpoint)
        self._buffer.clear()
        assert isinstance(self.train_dataset, Sized)
        if self.args.beta > 0 and checkpoint is not None:
            self.reference_logits = read_reference(checkpoint, len(self.train_dataset))
        elif self.args.beta > 0 and self.reference_logits is None:
            self.reference_logits = self._compute_reference(len(self.train_dataset))

    def _compute_reference(self, rows: int) -> Tensor:
        """Returns the logits of all rows, (rows, M) float32; each process computes its share."""
        args = self.args
        own = list(range(args.process_index, rows, args.world_size))
        share = Subset(self.train_dataset, own)
        found = predict_logits(
            self.model, share, self.data_collator, args.per_device_eval_batch_size, bool(args.bf16), "reference"
        )
        logits = torch.zeros(rows, found.shape[1])
        logits[own] = found
        every: Tensor = self.accelerator.reduce(logits.to(args.device), "sum")
        return every.cpu()

    def write_extras(self, folder: Path) -> None:
        """Writes the reference logits beside what all trainers write."""
        super().write_extras(folder)
        if self.reference_logits is not None:
            write_reference(folder, self.reference_logits)

    # ---------------------------------------------------------------- samples

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """Returns the micro batches of one optimiser step; where a spread over all of them is needed, draws their samples.

        Raises:
            TrainingError: A run was resumed between the steps of one set of samples.
        """
        args = self.args
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        step, self._slot = self.state.global_step, 0
        self._generation, iteration = divmod(step, args.num_iterations)
        if iteration == 0:
            self._buffer.clear()
            if args.scale_rewards == "batch" and args.gradient_accumulation_steps * args.world_size > 1:
                self._draw_step(batches)
        elif not self._buffer:
            raise TrainingError(
                f"a start at step {step}",
                f"samples are drawn at multiples of num_iterations = {args.num_iterations} and are not part of a checkpoint",
                "Resume from a checkpoint at such a step",
                code="TRAINING-014",
            )
        return batches, items

    @property
    def _noise_scale(self) -> float:
        """Noise scale of the current set of samples: a function of the step alone, so that a resumed run goes on with it."""
        draws = math.ceil(self.state.max_steps / self.args.num_iterations)
        return scale_of_draw(self.args.noise_scale, self.args.noise_scale_end, self._generation, draws)

    def _draw_step(self, batches: list[dict[str, Any]]) -> None:
        """Draws the samples of all micro batches, so that advantages are scaled by the spread of the whole step."""
        drawn = []
        self.model_wrapped.train()
        for batch in batches:
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                drawn.append((inputs["index"], *self._draw(policy_logits(self.model_wrapped, inputs), inputs)))
        every = self.accelerator.gather(torch.cat([rewards for _, _, rewards in drawn]))
        for slot, (rows, samples, rewards) in enumerate(drawn):
            self._buffer[slot] = _Experience(rows, samples, group_advantages(rewards, "batch", every))

    def _draw(self, logits: Tensor, batch: Mapping[str, Any]) -> tuple[SoftSamples, Tensor]:
        """Returns samples of the policy as it is, and their rewards (B, G).

        Raises:
            TrainingError: The rewards are no tensor of that shape.
        """
        args, old = self.args, logits.detach()
        shape = (args.num_generations, old.shape[-1])
        noise = row_noise(batch["index"], shape, args.seed, self._generation, args.noise)
        samples = sample(old, noise, args.tau_gumbel, args.top_p, self._density, self._noise_scale)
        rewards = self.reward(samples.weights, batch)
        expected = tuple(samples.weights.shape[:2])
        if not isinstance(rewards, Tensor) or rewards.shape != expected:
            found = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
            rule = f"the reward of weights (B, G, M) is a tensor (B, G) = {expected}"
            raise TrainingError(f"rewards of shape {found}", rule, "Correct the reward function", code="TRAINING-015")
        rewards = rewards.float()
        self._note_samples(samples, rewards)
        return samples, rewards

    def _note_samples(self, samples: SoftSamples, rewards: Tensor) -> None:
        single_class = (samples.support.sum(-1) == 1).float().mean()
        if not self._warned and samples.support.shape[-1] > 1 and single_class > 0.5:
            self._warned = True
            logger.warning(
                "%.0f %% of the prompts keep one class at top_p = %g and teach nothing",
                100 * single_class,
                self.args.top_p,
            )
        self.numbers.note(
            reward=rewards.mean(),
            reward_std=rewards.std(1).mean(),
            frac_reward_zero_std=equal_rewards(rewards).float().mean(),
            frac_support_one=single_class,
            **{f"sampled_weight_{index}": weight for index, weight in enumerate(samples.weights.mean((0, 1)))},
        )
        if self.args.noise_scale_end is not None:
            self.numbers.note(noise_scale=self._noise_scale)

    # ---------------------------------------------------------------- loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Returns the loss of one micro batch; samples are drawn on the first of `num_iterations` visits."""
        args, slot = self.args, self._slot
        self._slot += 1
        logits = policy_logits(model, inputs)
        if slot not in self._buffer:
            samples, rewards = self._draw(logits, inputs)
            self._buffer[slot] = _Experience(inputs["index"], samples, group_advantages(rewards, args.scale_rewards))
        experience = self._buffer[slot]
        assert torch.equal(experience.rows, inputs["index"])
        samples = experience.samples
        density = log_density(
            logits, samples.perturbed, samples.support, args.tau_gumbel, self._density, self._noise_scale
        )
        epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
        clipped = clipped_loss(
            density, samples.log_density, experience.advantages, args.epsilon, epsilon_high, args.delta
        )
        loss = clipped.loss
        if args.entropy_coef > 0:
            loss = loss - args.entropy_coef * entropy(logits).mean()
        if args.beta > 0:
            assert self.reference_logits is not None
            divergence = exact_kl(logits, self.reference_logits[inputs["index"].cpu()].to(logits.device)).mean()
            loss = loss + args.beta * divergence
            self.numbers.note(kl=divergence)
        self.numbers.note(
            policy_entropy=entropy(logits.detach()).mean(),
            ratio_mean=clipped.ratio.mean(),
            ratio_min=clipped.ratio.min(),
            ratio_max=clipped.ratio.max(),
            clip_ratio_low=clipped.clipped_low,
            clip_ratio_high=clipped.clipped_high,
        )
        return loss
