"""Runs of MLflow: started, filled and ended so that their state is true however the work ends."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_SOURCE_NAME,
)

from softgrpo.common.interruption import end_at_once_next_time
from softgrpo.common.redaction import scrub
from softgrpo.errors import StoreError
from softgrpo.reporting import Pruned
from softgrpo.tasks.tracking.connection import Tracking, store_errors
from softgrpo.tasks.tracking.liveness import LivenessLocks

PARAMS_PER_REQUEST = 100  # limits of MLflow's log_batch
METRICS_PER_REQUEST = 1000
PARAM_CHARACTERS = 6000
FLUSH_POINTS = 500
FLUSH_SECONDS = 5.0
LINE_SECONDS = 15.0
LIVENESS_TAG = "sign_of_life"
COMMIT_TAG, LOGGED_ARTIFACTS_TAG = MLFLOW_GIT_COMMIT, MLFLOW_LOGGED_ARTIFACTS

curves_log = logging.getLogger("softgrpo.curves")
"""For Prefect's log of a run; the console has progress bars instead, see `softgrpo.flows.runtime.console`."""
log = logging.getLogger("softgrpo.runs")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns nested settings as `section.setting` -> text, cut to what MLflow stores."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[f"{prefix}{name}"] = text[:PARAM_CHARACTERS]
    return flat


def metric_name(name: str) -> str:
    """Returns a name that MLflow accepts: `ndcg@10` -> `ndcg_at_10`, other strange characters -> `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


@cache
def git_commit(folder: Path) -> str | None:
    """Returns the commit that is checked out around a folder, as first seen; None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class Runs:
    """Starts, fills and ends runs.

    Args:
        tracking: An open connection.
        liveness: Tells whether the process that works on a run is alive.
    """

    def __init__(self, tracking: Tracking, liveness: LivenessLocks) -> None:
        self.tracking = tracking
        self.liveness = liveness

    @contextmanager
    def recorded(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> Iterator[str]:
        """Gives the id of a new run that ends as FINISHED, FAILED after an error, or KILLED after an interrupt or if it was pruned.

        Args:
            name: Name of the run.
            tags: Tags it starts with.
            parent: Id of the run it is a child of.
        """
        client = self.tracking.client
        with self.liveness.hold() as lock:
            tags = {
                **tags,
                MLFLOW_SOURCE_NAME: "softgrpo",
                LIVENESS_TAG: lock,
            }  # MLflow's page shows them in this order
            if parent is not None:
                tags[MLFLOW_PARENT_RUN_ID] = parent
            with store_errors(self.tracking.uri):
                run_id = client.create_run(self.tracking.experiment_id, tags=tags, run_name=name).info.run_id
            with self._ended(run_id, lock):
                yield run_id

    @contextmanager
    def continued(self, run_id: str) -> Iterator[None]:
        """Opens a run that has ended, or was lost, and ends it as `recorded` does."""
        with self.liveness.hold() as lock:
            self.tag(run_id, {LIVENESS_TAG: lock})
            with store_errors(self.tracking.uri):
                self.tracking.client.update_run(run_id, status="RUNNING")
            with self._ended(run_id, lock):
                yield

    def end_lost(self) -> None:
        """Marks runs of this output folder as KILLED that say they are running although their process is gone.

        A process that is ended by `kill -9` cannot report it, nor can a run while MLflow is down. Runs of other folders and
        machines, of which nothing is known here, stay as they are.
        """
        client = self.tracking.client
        with store_errors(self.tracking.uri):
            for run in client.search_runs([self.tracking.experiment_id], "attributes.status = 'RUNNING'"):
                lock = run.data.tags.get(LIVENESS_TAG)
                if lock is None or not self.liveness.is_dead(lock):
                    continue
                if client.get_run(run.info.run_id).info.status == "RUNNING":  # it did not end by itself a moment ago
                    client.set_terminated(run.info.run_id, "KILLED")
                    log.info(
                        "MLflow run %s (%s) ended without reporting it: marked as killed",
                        run.info.run_id,
                        run.info.run_name,
                    )
                self.liveness.remove(lock)

    def is_at_work(self, run: Run) -> bool:
        """Tells whether a run says that it is running and, as far as can be known in this output folder, its process is there."""
        lock = run.data.tags.get(LIVENESS_TAG)
        return run.info.status == "RUNNING" and (lock is None or not self.liveness.is_dead(lock))

    @contextmanager
    def _ended(self, run_id: str, lock: str) -> Iterator[None]:
        status = "KILLED"  # neither a success nor an error: Ctrl-C or a signal
        try:
            yield
            status = "FINISHED"
        except Pruned as reason:
            self.tag(run_id, {"pruned": str(reason)})
            raise
        except Exception as error:  # broad: the run failed, and the error goes on to the caller
            status = "FAILED"
            scrub(error)
            raise
        except (
            BaseException
        ):  # broad: a signal or Ctrl-C; reporting to MLflow may take minutes, and a second Ctrl-C ends that
            end_at_once_next_time()
            raise
        finally:
            try:
                with store_errors(self.tracking.uri):
                    self.tracking.client.set_terminated(run_id, status)
                self.liveness.remove(lock)
            except StoreError as error:
                if status == "FINISHED":
                    raise
                # the first error is the one to show and to judge retries by; `end_lost` of a later run tells MLflow
                log.warning("MLflow could not be told that run %s is %s: %s", run_id, status, error)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags of a run."""
        with store_errors(self.tracking.uri):
            self.tracking.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Logs nested settings as flat parameters."""
        params = [Param(name, value) for name, value in flatten(values).items()]
        with store_errors(self.tracking.uri):
            for start in range(0, len(params), PARAMS_PER_REQUEST):
                self.tracking.client.log_batch(run_id, params=params[start : start + PARAMS_PER_REQUEST])

    def points(self, run_id: str, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Logs points of curves, each (name, value, time in ms, step)."""
        metrics = [Metric(metric_name(name), float(value), moment, step) for name, value, moment, step in points]
        with store_errors(self.tracking.uri):
            for start in range(0, len(metrics), METRICS_PER_REQUEST):
                self.tracking.client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])

    def metrics(
        self,
        run_id: str,
        values: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
        points: Sequence[tuple[str, float, int]] = (),
        model_id: str | None = None,
    ) -> None:
        """Logs final metrics, and sets tags, in one request where they are few.

        Args:
            run_id: The run.
            values: Metrics without a step.
            tags: Tags of the run.
            points: Points of curves, each (name, value, step).
            model_id: The model that the metrics are about, which shows them too.
        """
        moment = int(time.time() * 1000)
        all_points = [*((name, value, 0) for name, value in values.items()), *points]
        metrics = [
            Metric(metric_name(name), float(value), moment, step, model_id=model_id) for name, value, step in all_points
        ]
        labels = [RunTag(name, value) for name, value in (tags or {}).items()]
        with store_errors(self.tracking.uri):
            for start in range(0, max(len(metrics), 1), METRICS_PER_REQUEST - len(labels)):
                part = metrics[start : start + METRICS_PER_REQUEST - len(labels)]
                self.tracking.client.log_batch(run_id, metrics=part, tags=labels if start == 0 else [])


class RunReporter:
    """Sends a stage's curves to its run, in batches so that training hardly waits, and its lines to a log.

    The newest values of the curves also go to `curves_log`, now and then and at the end.

    Args:
        runs: Where to log.
        run_id: The stage's run.
        logger: Receives the lines.
    """

    def __init__(self, runs: Runs, run_id: str, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._runs = runs
        self._run_id = run_id
        self._logger = logger
        self._waiting: list[tuple[str, float, int, int]] = []
        self._sent = self._said = time.monotonic()
        self._newest: dict[str, tuple[int, float]] = {}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve; they are sent with the first point that comes some seconds later."""
        now, moment = time.monotonic(), int(time.time() * 1000)
        self._waiting += [(name, value, moment, step) for name, value in values.items()]
        self._newest |= {name: (step, value) for name, value in values.items() if "/" not in name}  # cells of tables
        if len(self._waiting) >= FLUSH_POINTS or now - self._sent > FLUSH_SECONDS:
            self._send()
        if now - self._said > LINE_SECONDS:
            self._say()

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self._logger.info(message)

    def flush(self) -> None:
        """Sends and says what waits."""
        self._say()
        self._send()

    def _send(self) -> None:
        self._runs.points(self._run_id, self._waiting)
        self._waiting = []
        self._sent = time.monotonic()

    def _say(self) -> None:
        """Says the newest values, of each step together."""
        steps = sorted({step for step, _ in self._newest.values()})
        for step in steps:
            values = (f"{name} {value:.5g}" for name, (at, value) in self._newest.items() if at == step)
            curves_log.info("step %d: %s", step, ", ".join(values))
        self._newest = {}
        self._said = time.monotonic()
