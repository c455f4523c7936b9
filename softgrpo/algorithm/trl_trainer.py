"""`SoftGRPOTrainer`: SofT-GRPO on TRL's base trainer, for any problem whose action is a point on a simplex.

A data set of prompts and any columns of your own, a sequence classifier, and reward functions of the weights (B, G, M) and of the
columns that they name. A prompt is never repeated: one forward pass serves all G samples.
Legend: B prompts, G generations, M classes, F reward functions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.callbacks import SyncRefModelCallback

from softgrpo.algorithm.batching import PromptCollator, Row, policy_logits
from softgrpo.algorithm.checkpoints import read_reference, write_reference
from softgrpo.algorithm.completions import show_completions, write_completions
from softgrpo.algorithm.dropout import switch_dropout_off
from softgrpo.algorithm.experience import Draw, Experience
from softgrpo.algorithm.noise import row_noise, scale_of_draw
from softgrpo.algorithm.policy_losses import policy_loss
from softgrpo.algorithm.prompt_data import PromptData, as_rows, prompt_texts
from softgrpo.algorithm.prompt_trainer import PromptTrainer
from softgrpo.algorithm.reference import (
    compute_reference,
    copy_as_reference,
    read_reference_model,
    write_reference_model,
)
from softgrpo.algorithm.reward_functions import RewardFunction, RewardFunctions, advantages
from softgrpo.algorithm.rewarded_evaluation import RewardedEvaluation
from softgrpo.algorithm.soft_grpo import (
    Density,
    SoftSamples,
    entropy,
    equal_rewards,
    exact_kl,
    log_density,
    sample,
)
from softgrpo.algorithm.trl_config import SoftGRPOConfig
from softgrpo.errors import TrainingError

__all__ = ["RewardFunction", "SoftGRPOConfig", "SoftGRPOTrainer"]

logger = logging.getLogger(__name__)


class SoftGRPOTrainer(RewardedEvaluation, PromptTrainer, _BaseTrainer):  # type: ignore[misc]  # two annotations of one attribute
    """Trains a sequence classifier by SofT-GRPO.

    Args:
        model: Token ids (B, L) to logits (B, M).
        reward_funcs: One or several, see `RewardFunctions`: `(weights (B, G, M), column=..., ...) -> (B, G)` with the columns of
            the data that its parameters name, or `(weights, batch)` with a dict of all. `args.reward_weights` weighs them.
        args: The arguments.
        train_dataset: A `datasets.Dataset`, a list of dicts or a dict of columns with `prompt` and any columns of your own, or
            `softgrpo.algorithm.batching.PromptRows`.
        processing_class: The tokenizer.
        eval_dataset: Likewise; `evaluate` reports `eval_rewards/<name>/mean` of the weights softmax(z).
        eval_reward_funcs: Reward functions of evaluation; None takes those of `reward_funcs` that know rows by their columns, and
            not by `batch` or `index`, which are training's.
        reward: Earlier name of `reward_funcs`.
        **kwargs: For `transformers.Trainer` (compute_metrics, callbacks, ...).

    Raises:
        ConfigError: Reward functions or their weights do not go together.
        TrainingError: The data lack what is needed.
    """

    _name = "SofT-GRPO"
    args: SoftGRPOConfig
    model: nn.Module
    train_dataset: Dataset[Row]
    data_collator: PromptCollator

    def __init__(
        self,
        model: nn.Module,
        reward_funcs: RewardFunction | Sequence[RewardFunction] | None = None,
        args: SoftGRPOConfig | None = None,
        train_dataset: PromptData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        eval_dataset: PromptData | Mapping[str, PromptData] | None = None,
        eval_reward_funcs: RewardFunction | Sequence[RewardFunction] | None = None,
        reward: RewardFunction | None = None,
        **kwargs: Any,
    ) -> None:
        functions = reward if reward_funcs is None else reward_funcs
        if functions is None or train_dataset is None or processing_class is None:
            raise TypeError("SoftGRPOTrainer needs reward_funcs, train_dataset and processing_class")
        args = SoftGRPOConfig() if args is None else args
        if args.disable_dropout:
            switch_dropout_off(model)
        self._longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        self._tokenizer = processing_class
        rows = as_rows(train_dataset, processing_class, self._longest)
        super().__init__(
            model=model,
            args=args,
            data_collator=PromptCollator(processing_class),
            train_dataset=rows,
            eval_dataset=self._evaluated(eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )
        self.rewards = RewardFunctions(functions, args.reward_weights, rows[0].keys())
        self._eval_rewards = self._rewards_of_evaluation(eval_reward_funcs)
        self.repeats = args.num_iterations
        self.reference_logits: Tensor | None = None
        self.ref_model = copy_as_reference(model) if args.sync_ref_model else None
        if self.ref_model is not None:
            self.add_callback(SyncRefModelCallback(self.ref_model, self.accelerator))
        self._density: Density = "discrete" if args.sampling == "discrete" else args.importance_ratio
        self._buffer: dict[int, Experience] = {}
        self._generation, self._slot, self._warned = 0, 0, False

    # ---------------------------------------------------------------- reference

    def prepare(self, checkpoint: Path | None) -> None:
        """Computes the logits of all training rows once, before training (beta > 0); a checkpoint holds them."""
        super().prepare(checkpoint)
        self._buffer.clear()
        assert isinstance(self.train_dataset, Sized)
        if self.ref_model is not None:
            if checkpoint is not None:
                read_reference_model(checkpoint, self.ref_model)
        elif self.args.beta > 0 and checkpoint is not None:
            self.reference_logits = read_reference(checkpoint, len(self.train_dataset))
        elif self.args.beta > 0 and self.reference_logits is None:
            self.reference_logits = compute_reference(self, self.train_dataset, self.data_collator)

    def write_extras(self, folder: Path) -> None:
        """Writes the reference logits beside what all trainers write."""
        super().write_extras(folder)
        if self.reference_logits is not None:
            write_reference(folder, self.reference_logits)
        if self.ref_model is not None:
            write_reference_model(folder, self.ref_model, self.model)

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
            over_step = args.scale_rewards == "batch" or args.multi_objective_aggregation == "normalize_then_sum"
            if over_step and args.gradient_accumulation_steps * args.world_size > 1:
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
                drawn.append(self._draw(policy_logits(self.model_wrapped, inputs), inputs))
        every = self.accelerator.gather(torch.cat([each.scores for each in drawn]))
        for slot, each in enumerate(drawn):
            self._buffer[slot] = self._experience(each, every)

    def _experience(self, draw: Draw, step_scores: Tensor | None = None) -> Experience:
        how, scale = self.args.multi_objective_aggregation, self.args.scale_rewards
        return Experience(draw, advantages(draw.scores, how, scale, step_scores))

    def _draw(self, logits: Tensor, batch: Mapping[str, Any]) -> Draw:
        """Returns samples of the policy as it is, and what they earn.

        Raises:
            TrainingError: The rewards are no tensor (B, G), or not finite.
        """
        args, old = self.args, logits.detach()
        shape = (args.num_generations, old.shape[-1])
        noise = row_noise(batch["index"], shape, args.seed, self._generation, args.noise)
        samples = sample(old, noise, args.tau_gumbel, args.top_p, self._density, self._noise_scale)
        rewards = self.rewards.of(samples.weights, batch, self.state)
        self._note_samples(samples, rewards)
        scores = self.rewards.scores(rewards, args.multi_objective_aggregation)
        reference = None
        if self.ref_model is not None:
            with torch.no_grad():
                reference = policy_logits(self.ref_model, batch)
        prompts = prompt_texts(batch, self._tokenizer) if args.log_completions else ()
        return Draw(batch["index"], samples, rewards, scores, reference, prompts)

    def _note_samples(self, samples: SoftSamples, rewards: Tensor) -> None:
        """Notes what the log says of samples and their rewards (B, G, F)."""
        total = self.rewards.total(rewards)
        single_class = (samples.support.sum(-1) == 1).float().mean()
        if not self._warned and samples.support.shape[-1] > 1 and single_class > 0.5:
            self._warned = True
            logger.warning(
                "%.0f %% of the prompts keep one class at top_p = %g and teach nothing",
                100 * single_class,
                self.args.top_p,
            )
        self.numbers.note(
            reward=total.mean(),
            reward_std=total.std(1).mean(),
            frac_reward_zero_std=equal_rewards(total).float().mean(),
            frac_support_one=single_class,
            **{f"rewards/{name}/mean": rewards[..., place].mean() for place, name in enumerate(self.rewards.names)},
            **{f"rewards/{name}/std": rewards[..., place].std() for place, name in enumerate(self.rewards.names)},
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
        args, slot, self._slot = self.args, self._slot, self._slot + 1
        logits = policy_logits(model, inputs)
        if slot not in self._buffer:
            self._buffer[slot] = self._experience(self._draw(logits, inputs))
        experience = self._buffer[slot]
        draw, samples = experience.draw, experience.draw.samples
        assert torch.equal(draw.rows, inputs["index"])
        density = log_density(
            logits, samples.perturbed, samples.support, args.tau_gumbel, self._density, self._noise_scale
        )
        clipped = policy_loss(density, samples.log_density, experience.advantages, args)
        loss = clipped.loss
        if args.entropy_coef > 0:
            loss = loss - args.entropy_coef * entropy(logits).mean()
        if args.beta > 0:
            reference = draw.reference
            if reference is None:
                assert self.reference_logits is not None
                reference = self.reference_logits[inputs["index"].cpu()].to(logits.device)
            divergence = exact_kl(logits, reference).mean()
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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs numbers, and with those of the steps the last samples where `log_completions` asks for them."""
        super().log(logs, start_time)
        if self.args.log_completions and "loss" in logs:
            self._log_completions()

    def _log_completions(self) -> None:
        """Prints and writes the samples of the last step, those of all processes."""
        names: Mapping[int, str] = getattr(self.model.config, "id2label", {})
        own = [each.table(self.state.global_step, names, self.rewards.names) for each in self._buffer.values()]
        tables = gather_object(own)
        if self.accelerator.is_main_process:
            table = pd.concat(tables, ignore_index=True)
            show_completions(table, self.rewards.names, self.args.num_completions_to_print)
            write_completions(table, Path(str(self.args.output_dir)))
