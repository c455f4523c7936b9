"""Callbacks of SFT and SofT-GRPO: numbers to the reporter, progress bars, the check that the loss is finite, early stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from softgrpo.config import TrainConfig
from softgrpo.errors import TrainingError
from softgrpo.reporting import BEST_METRIC, ProgressBar, Reporter


def evaluations(state: TrainerState) -> dict[int, float]:
    """Returns the value of `BEST_METRIC` by step, ascending; a resumed run repeats the evaluation that it starts from."""
    found = {int(entry["step"]): float(entry[BEST_METRIC]) for entry in state.log_history if BEST_METRIC in entry}
    return dict(sorted(found.items()))


def best_evaluation(values: dict[int, float]) -> int:
    """Returns the step of the best evaluation, the earliest of equal ones."""
    return max(values, key=lambda step: values[step])


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping with the start among the candidates, and a count that resuming does not change.

    Args:
        early_stopping_patience: Evaluations in a row that beat none before them, at which training stops.
    """

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Counts the evaluations behind the best one, from the log: it is part of every checkpoint."""
        values = evaluations(state)
        self.early_stopping_patience_counter = sum(step > best_evaluation(values) for step in values)


def training_callbacks(
    config: TrainConfig, reporter: Reporter, label: str, recallers: Sequence[str] = ()
) -> list[TrainerCallback]:  # fmt: skip
    """Returns what watches SFT or SofT-GRPO in a stage.

    Args:
        config: Says whether and when to stop early.
        reporter: Receives the numbers.
        label: What stands before the bars.
        recallers: Names for the numbers that the trainer gives for each of them.
    """
    patience = config.early_stopping_patience
    return [CurveSender(reporter, recallers), Progress(label), *([] if patience is None else [EarlyStopping(patience)])]


class CurveSender(TrainerCallback):
    """Passes the trainer's numbers on, and checks that the loss is finite.

    Args:
        reporter: Receives them.
        recallers: Names for `sampled_weight_0` and so on, which become `sampled_weight_<recaller>`.
    """

    def __init__(self, reporter: Reporter, recallers: Sequence[str] = ()) -> None:
        self._reporter = reporter
        self._names = {f"sampled_weight_{index}": f"sampled_weight_{name}" for index, name in enumerate(recallers)}

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
                    f"{name} is {values[name]}",
                    "training stops at a loss that is not finite; the last checkpoint is intact",
                    "Lower the learning rate, or compute without bf16",
                    code="TRAINING-021",
                )
        named = {self._names.get(name, name): value for name, value in values.items()}
        self._reporter.metrics(named, state.global_step)


class Progress(TrainerCallback):
    """One progress bar over the optimiser steps, one over each evaluation, and an evaluation behind the last step.

    Args:
        label: What stands before the bars.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._steps: ProgressBar | None = None
        self._validation: ProgressBar | None = None
        self._shown: dict[str, str] = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the bar, behind the evaluation of the start, which would spoil its estimate of the time left."""
        if self._steps is None:
            self._steps = ProgressBar(
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
            self._validation = ProgressBar(
                total=len(kwargs["eval_dataloader"]),
                desc=f"{self._label} validation",
                unit="batch",
                leave=False,
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
