"""What every trainer of a policy shares, on the transformers Trainer: batches by length, evaluation by logits, checkpoints
that say what they belong to, the share of padding and the pace.

Legend: B prompts, M classes, P processes.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedConfig, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, get_last_checkpoint

from softgrpo.algorithm.batching import FixedOrder, GroupSampler, PromptCollator, Row, policy_logits, token_counts
from softgrpo.algorithm.checkpoints import check_origin, describe, write_origin
from softgrpo.algorithm.frozen_states import frozen_states_of
from softgrpo.errors import ConfigError, TrainingError

CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)
"""What transformers calls the setting; the second name before version 5.23."""
logger = logging.getLogger(__name__)

STRATEGIES = ("random", "group_by_length")


class StepNumbers(TrainerCallback):
    """Numbers of the steps since the last log, and the clock of the steps."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._started = 0.0

    def note(self, **numbers: Tensor | float) -> None:
        """Adds numbers; each name comes as often in every process."""
        for name, value in numbers.items():
            self._values[name].append(torch.as_tensor(value).detach().float())

    def start_clock(self) -> None:
        """Begins a step; `on_step_end` ends it."""
        self._started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:  # fmt: skip
        """Notes the seconds of the step."""
        self.note(seconds=time.perf_counter() - self._started)

    @staticmethod
    def _summary(name: str, values: Tensor) -> Tensor:
        if name.endswith("_min"):
            return values.min()
        return values.max() if name.endswith("_max") else values.mean()

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the numbers over all processes and forgets them: means, but minima of `*_min` and maxima of `*_max`."""
        names = sorted(self._values)
        if not names:
            return {}
        stacked = (torch.stack([value.to(accelerator.device) for value in self._values[name]]) for name in names)
        local = torch.stack([self._summary(name, values) for name, values in zip(names, stacked, strict=True)])
        every = accelerator.gather(local[None]).cpu()  # (P, names)
        self._values.clear()
        return {name: float(self._summary(name, every[:, place])) for place, name in enumerate(names)}


class PromptTrainer(Trainer):
    """A Trainer over rows with `input_ids` and `index`, whose evaluation gives logits as predictions and row numbers as labels.

    Of the sampling strategies it knows random and group_by_length. Several GPUs are used by several processes
    (`accelerate launch`), never by one. Logs of steps hold `padding_share` and `samples_per_second` (prompts).

    Args:
        model: Token ids (B, L) to logits (B, M).
        args: The arguments.
        head: Parameters that learn at a rate of their own, such as those of a new head on a pretrained body.
        head_learning_rate: Their peak rate; None takes `args.learning_rate`.
        **kwargs: For `transformers.Trainer`.
    """

    loss_is_scaled_for_ga = False
    repeats = 1
    """Optimiser steps per group of rows."""

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        head: Iterable[nn.Parameter] = (),
        head_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        if args.n_gpu > 1:
            # DataParallel would split a batch behind the sampler's back, and would be slower
            logger.warning("One of %d GPUs is used; `accelerate launch` uses all", args.n_gpu)
            args._n_gpu = 1
        super().__init__(model=model, args=args, **kwargs)
        self.numbers = StepNumbers()
        self.add_callback(self.numbers)
        self._predicted = StepNumbers()
        self._head, self._head_learning_rate = {id(parameter) for parameter in head}, head_learning_rate

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Returns the optimiser, with the head in groups of its own where it has a rate of its own."""
        made = self.optimizer is not None  # a second training goes on with the first one's
        optimizer = super().create_optimizer(model)
        if self._head_learning_rate is not None and not made:
            assert self._head, "a rate of its own for a head without parameters"
            for group in list(optimizer.param_groups):
                own = [parameter for parameter in group["params"] if id(parameter) in self._head]
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in self._head]
                optimizer.add_param_group({**group, "params": own, "lr": self._head_learning_rate})
        return optimizer

    # ---------------------------------------------------------------- order of the rows

    def _get_train_sampler(self, train_dataset: Dataset[Row] | None = None) -> Sampler[int]:
        args, rows = self.args, self.train_dataset
        strategy = args.train_sampling_strategy
        if strategy not in STRATEGIES:
            raise ConfigError(
                f"train_sampling_strategy = {strategy}",
                f"it must be {' or '.join(STRATEGIES)}",
                "Correct it",
                code="CONFIG-041",
            )
        assert isinstance(rows, Sized)
        group = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        lengths = token_counts(rows) if strategy == "group_by_length" else None  # type: ignore[arg-type]
        self._sampler = GroupSampler(len(rows), group, self.repeats, seed, lengths)
        return self._sampler

    def _get_eval_sampler(self, eval_dataset: Dataset[Row]) -> Sampler[int] | None:
        if self.args.train_sampling_strategy == "group_by_length":
            return FixedOrder.longest_first(token_counts(eval_dataset))
        sampler: Sampler[int] | None = super()._get_eval_sampler(eval_dataset)
        return sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._sampler.set_epoch(kwargs["epoch"])  # accelerate does not reach it in a resumed epoch of several processes
        self._leave_inputs_without_gradient()
        super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _leave_inputs_without_gradient(self) -> None:
        """Undoes what transformers does with recomputed activations: only reentrant checkpoints need gradients of their inputs.

        With one, frozen layers would be recorded, recomputed and walked through backwards, for nothing.
        """
        options = getattr(self.args, f"{CHECKPOINTING}_kwargs") or {}
        assert isinstance(options, dict)
        if getattr(self.args, CHECKPOINTING) and not options.get("use_reentrant"):
            self.model.disable_input_require_grads()  # type: ignore[union-attr, operator]

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """Returns the micro batches of one optimiser step, and counts their tokens."""
        self.numbers.start_clock()
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        masks = [batch["attention_mask"] for batch in batches]
        self.numbers.note(
            rows=sum(len(mask) for mask in masks),
            tokens=torch.stack([mask.sum() for mask in masks]).sum(),
            cells=sum(mask.numel() for mask in masks),
        )
        return batches, items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the numbers of the steps since the last log."""
        if "loss" in logs:
            numbers = self.numbers.take(self.accelerator)
            tokens, cells, rows, seconds = (numbers.pop(name) for name in ("tokens", "cells", "rows", "seconds"))
            pace = rows * self.args.world_size / seconds
            logs = {**logs, **numbers, "padding_share": 1.0 - tokens / cells, "samples_per_second": pace}
        super().log(logs, start_time)

    # ---------------------------------------------------------------- evaluation

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Returns (no loss, logits (B, M), rows (B,))."""
        inputs = self._prepare_inputs(inputs)
        mask = inputs["attention_mask"]
        self._predicted.note(tokens=mask.sum(), cells=mask.numel())
        with torch.no_grad(), self.compute_loss_context_manager():
            return None, policy_logits(model, inputs), inputs["index"]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Returns predictions in the order of the rows, and adds padding_share to the metrics."""
        output = super().evaluation_loop(*args, **kwargs)
        numbers = self._predicted.take(self.accelerator)
        share = {f"{kwargs['metric_key_prefix']}_padding_share": 1.0 - numbers["tokens"] / numbers["cells"]}
        logits, rows, metrics = output.predictions, output.label_ids, output.metrics
        assert isinstance(logits, np.ndarray) and isinstance(rows, np.ndarray) and metrics is not None
        order = np.argsort(rows, kind="stable")
        return EvalLoopOutput(logits[order], rows[order], {**metrics, **share}, output.num_samples)

    # ---------------------------------------------------------------- checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; arguments as in transformers.

        Raises:
            TrainingError: The checkpoint belongs to another model or to other classes; a logit, loss or reward is not finite, or
                rewards have a wrong shape. It names the step.
        """
        assert self.model is not None and isinstance(self.model.config, PreTrainedConfig)
        names = self.model.config.id2label
        assert names is not None
        self._origin = describe(self.model, [str(name) for name in names.values()])
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        checkpoint = Path(str(resume_from_checkpoint)) if resume_from_checkpoint else None
        try:
            with self._frozen_states():
                self.prepare(checkpoint)
                return super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        except TrainingError as problem:
            received = f"{problem.received}, after {self.state.global_step} finished steps"
            raise TrainingError(received, problem.rule, problem.remedy, code=problem.code) from problem

    def _frozen_states(self) -> AbstractContextManager[None]:
        """Returns the context of a training, in which frozen layers are computed once for each prompt."""
        if self.args.torch_compile or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return nullcontext()  # these do not look at what a layer is at the moment
        asked = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        rows: list[Dataset[Row]] = [each for each in (self.train_dataset, *asked) if each is not None]
        collator, size = self.data_collator, self.args.per_device_eval_batch_size
        assert self.model is not None and isinstance(collator, PromptCollator)
        return frozen_states_of(self.model, rows, collator, size, self.compute_loss_context_manager)

    def prepare(self, checkpoint: Path | None) -> None:
        """Makes ready what training needs, before a checkpoint is loaded, and checks that the checkpoint belongs here."""
        if checkpoint is not None:
            check_origin(checkpoint, self._origin)

    def write_extras(self, folder: Path) -> None:
        """Writes what a checkpoint holds beside the model and its optimiser."""
        write_origin(folder, self._origin)

    def _save_rng_state(self, output_dir: str) -> None:
        """Writes this process's random state; those of all are there before the last file, which makes the checkpoint count."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save:  # before the rest, whose last file makes the checkpoint count
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.write_extras(Path(self._get_output_dir(trial)) / folder)
        super()._save_checkpoint(model, trial)
