"""Callbacks of SFT and SofT-GRPO: numbers to the reporter, progress bars, and the check that the loss is finite."""

from __future__ import annotations

import math
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from softgrpo.errors import TrainingError
from softgrpo.stages import Reporter

BEST_METRIC = "eval_ndcg_multi"


class Report(TrainerCallback):
    """Passes the trainer's numbers on, and checks that the loss is finite.

    Args:
        reporter: Receives them.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Reports one set of numbers."""
        values = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values.get(name, 0.0)):
                raise TrainingError(
                    f"{name} is {values[name]} at step {state.global_step}",
                    "training stops at a loss that is not finite; the last checkpoint is intact",
                    "Lower the learning rate, or compute without bf16",
                )
        self._reporter.metrics(values, state.global_step)


class Progress(TrainerCallback):
    """One progress bar over the optimiser steps, one over each evaluation, and an evaluation behind the last step.

    Args:
        label: What stands before the bars.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._steps: tqdm[Any] | None = None
        self._validation: tqdm[Any] | None = None
        self._shown: dict[str, str] = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the bar, behind the evaluation of the start, which would spoil its estimate of the time left."""
        if self._steps is None:
            self._steps = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self._label, unit="step", mininterval=1.0
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar, and asks for an evaluation behind the last step."""
        assert self._steps is not None
        self._steps.update(state.global_step - self._steps.n)
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Moves the bar of an evaluation."""
        if self._validation is None:
            self._validation = tqdm(
                total=len(kwargs["eval_dataloader"]),
                desc=f"{self._label} validation",
                unit="batch",
                leave=False,
                delay=2.0,
            )
        self._validation.update(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Closes the bar of an evaluation."""
        if self._validation is not None:
            self._validation.close()
            self._validation = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Shows the newest loss, reward and validation NDCG."""
        self._shown |= {name: f"{logs[name]:.4f}" for name in ("loss", "reward", BEST_METRIC) if logs and name in logs}
        if self._steps is not None:
            self._steps.set_postfix(self._shown)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the bar."""
        if self._steps is not None:
            self._steps.close()
