"""The study behind `tune`: Optuna in a SQLite file, one trial at a time, resumed wherever it was cut off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from softgrpo.errors import TrainingError
from softgrpo.pipeline.store import LocalStore
from softgrpo.pipeline.tuning import STAGE, Range, as_overrides
from softgrpo.reporting import BEST_METRIC, Pruned, Reporter
from softgrpo.stages.contract import Node

DATABASE = "optuna.db"
LOCK_SECONDS = 60  # how long SQLite waits for a process that writes
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
RETRY, REASON = "retry_of", "reason"


def open_study(name: str, output: Path, local: LocalStore) -> optuna.Study:
    """Opens a study, or makes it.

    Args:
        name: Name of the study.
        output: Folder of the database.
        local: Gives the lock that keeps two first runs from making the same database at once.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with local.lock("optuna"):
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{output.resolve() / DATABASE}", engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}}
        )
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )


def recover(study: optuna.Study) -> None:
    """Fails trials that were cut off, and queues the settings of every failed trial that was not tried again.

    With equal settings the stage has an equal key, so that a retried training goes on from its checkpoint.

    Args:
        study: A study that no other process works on.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    retried = {trial.user_attrs.get(RETRY) for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.number not in retried:
            values = trial.system_attrs.get("fixed_params", {}) | trial.params  # it may not have got all of them yet
            study.enqueue_trial(values, user_attrs={RETRY: trial.number})


def count_done(study: optuna.Study) -> int:
    """Returns the number of trials that ended, pruned ones included."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def next_trial(study: optuna.Study, ranges: Mapping[str, Range], seed: int) -> optuna.Trial:
    """Returns the next trial: one that is queued, or new settings.

    Each trial has a sampler with a seed of its own, so that a resumed study tries what it would have tried without a break if
    as many are tried at once.

    Args:
        study: The study.
        ranges: What is searched, see `SearchSpace.ranges`.
        seed: Of the whole study.
    """
    started = len(study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING)))
    study.sampler = optuna.samplers.TPESampler(seed=seed + started)
    return study.ask({name: _distribution(each) for name, each in ranges.items()})


def _distribution(values: Range) -> FloatDistribution | IntDistribution:
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


@dataclass(frozen=True)
class TrialWatch:
    """Lets the study follow a trial's training, in whatever process that is.

    Attributes:
        trial: The trial.
        epochs: Passes of the training.
    """

    trial: optuna.Trial
    epochs: float

    def __call__(self, node: Node, reporter: Reporter) -> Reporter:
        """Returns the reporter of a stage; that of the training reports to the study too."""
        return TrialReporter(self.trial, reporter, self.epochs) if node.stage.name == STAGE else reporter


class TrialReporter:
    """Reports the validation NDCG of a training to the study, and ends the training if it is below the median.

    Args:
        trial: The trial.
        inner: Receives everything too.
        epochs: Passes of the training; one that has reached them is not ended any more.
    """

    def __init__(self, trial: optuna.Trial, inner: Reporter, epochs: float) -> None:
        self._trial = trial
        self._inner = inner
        self._epochs = epochs

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve.

        Raises:
            Pruned: The trial is worse than the median of those before it.
        """
        self._inner.metrics(values, step)
        if BEST_METRIC not in values or step == 0:
            return
        report(self._trial, {step: values[BEST_METRIC]})
        if values["epoch"] < self._epochs and self._trial.should_prune():
            raise Pruned(
                f"validation NDCG {values[BEST_METRIC]:.4f} at step {step} is below the median of the trials before"
            )

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self._inner.info(message)


def report(trial: optuna.Trial, values: Mapping[int, float]) -> None:
    """Notes validation NDCG by step, as far as the trial lacks it: a resumed or reused training has evaluated before."""
    known = trial.study.trials[trial.number].intermediate_values
    for step, value in values.items():
        if step not in known:
            trial.report(value, step)


def best_trial(study: optuna.Study) -> FrozenTrial:
    """Returns the trial with the best validation NDCG, the earliest of equal ones.

    Raises:
        TrainingError: No trial was completed.
    """
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        raise TrainingError(
            f"study {study.study_name}: none of {count_done(study)} trials came to its end",
            "The best settings are those of a whole training",
            "Ask for more trials, or start from a smaller grpo.learning_rate",
            code="TRAINING-001",
        )
    return max(complete, key=lambda trial: (trial.values[0], -trial.number))


def trial_table(study: optuna.Study, runs: Mapping[str, str]) -> pd.DataFrame:
    """Returns one row for each trial that was started.

    Args:
        study: The study.
        runs: MLflow run by the trial's name, see `trial_name`.

    Returns:
        Columns `trial`, `state` (complete, pruned, fail, running), `validation_ndcg` (NaN unless complete), one for each
        setting, `last_step` (of the last evaluation, 0 without one), `retry_of` (number of the trial that was cut off, or -1),
        `reason` (why it was pruned or failed), `run` ("" where MLflow has none).
    """
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "validation_ndcg": trial.values[0] if trial.values else float("nan"),
            **as_overrides(trial.params),
            "last_step": max(trial.intermediate_values, default=0),
            "retry_of": trial.user_attrs.get(RETRY, -1),
            "reason": trial.user_attrs.get(REASON, ""),
            "run": runs.get(trial_name(trial.number), ""),
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state is not TrialState.WAITING
    ]
    return pd.DataFrame(rows)


def trial_name(number: int) -> str:
    """Returns the name of a trial's run."""
    return f"trial {number}"
