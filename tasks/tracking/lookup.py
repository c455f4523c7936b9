"""A run that is named by its id: its store, and its stages, which replace those that a plan's keys would find.

It needs no Prefect: commands ask here before anything is started.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID

from softgrpo.common.paths import stages_folder
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.pipeline.store import LocalStore
from softgrpo.stages.contract import Node
from softgrpo.tasks.tracking.connection import Tracking, connect, store_errors
from softgrpo.tasks.tracking.liveness import LivenessLocks
from softgrpo.tasks.tracking.runs import Runs
from softgrpo.tasks.tracking.store import ArtifactStore, Reference

PIPELINE_TAG, REFIT = "stage_run.", "refit"
UPSTREAM_TAG = "upstream_run."
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
"""The form of MLflow's run ids."""
FLOW_RUN_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""The form of Prefect's run ids; MLflow's have no hyphens."""
BEGINNING = re.compile("[0-9a-f]{6,31}")
"""Short form of a run's id: its first characters, at least as many as `softgrpo compare` shows."""
MOST_SHOWN = 5


def started_at(run: Run) -> datetime:
    """Returns when a run was started."""
    return datetime.fromtimestamp(run.info.start_time / 1000, UTC)


def commit_of(run: Run) -> str | None:
    """Returns the commit of the checkout that a run was started in, None outside one."""
    commit: str | None = run.data.tags.get(MLFLOW_GIT_COMMIT)
    return commit


def open_store_of_run(run_id: str, output: Path) -> ArtifactStore:
    """Opens MLflow, in the experiment of a run, and the folder of finished stages.

    Args:
        run_id: A run, see `read_run`.
        output: Folder of all that is written.

    Raises:
        ConfigError: There is no such run.
        StoreError: MLflow does not answer.
    """
    local = LocalStore(stages_folder(output))
    store = ArtifactStore(Runs(connect(output), LivenessLocks.of(local)), local)
    tracking = replace(store.runs.tracking, experiment_id=read_run(store, run_id).info.experiment_id)
    return ArtifactStore(Runs(tracking, store.runs.liveness), local)


def read_run(store: ArtifactStore, run_id: str) -> Run:
    """Returns a run of MLflow.

    Args:
        store: The open store.
        run_id: Its id, or six or more characters from the beginning of it.

    Raises:
        ConfigError: No run has that id, or several ids begin with it.
        StoreError: MLflow does not answer.
    """
    if not RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"run '{run_id}'",
            "The id of a run has 1 to 256 letters, digits, - and _",
            "Copy it from a run's page, six characters of it or more",
            code="CONFIG-081",
        )
    tracking = store.runs.tracking
    try:
        return tracking.client.get_run(run_id)
    except MlflowException as error:
        matches = _beginning_with(tracking, run_id) if BEGINNING.fullmatch(run_id) else []
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(run.info.run_id for run in matches)
            raise ConfigError(
                f"run '{run_id}'", f"Several runs begin so: {ids}", "Give more of the id", code="CONFIG-082"
            ) from error
        rule = f"MLflow has no such run ({error.error_code})"
        if FLOW_RUN_ID.fullmatch(run_id):
            rule = "An id with hyphens is that of a run in Prefect; the id of the MLflow run is needed"
        raise ConfigError(
            f"run '{run_id}'",
            rule,
            "`softgrpo runs` lists the ids; six characters from the beginning of one are enough",
            code="CONFIG-083",
        ) from error


def _beginning_with(tracking: Tracking, beginning: str) -> list[Run]:
    """Returns some of the runs, of any experiment, whose ids begin with these characters."""
    with store_errors(tracking.uri):
        experiments = [experiment.experiment_id for experiment in tracking.client.search_experiments()]
        query = f"attributes.run_id LIKE '{beginning}%'"
        return list(tracking.client.search_runs(experiments, query, max_results=MOST_SHOWN))


def stage_runs(store: ArtifactStore, run: Run) -> dict[str, str]:
    """Returns node name -> run id of a pipeline's run, or of a stage's run with all that it was made from."""
    tags: Mapping[str, str] = run.data.tags
    if tags.get("stage") in ("pipeline", REFIT):
        return {name.removeprefix(PIPELINE_TAG): value for name, value in tags.items() if name.startswith(PIPELINE_TAG)}
    upstream = [value for name, value in tags.items() if name.startswith(UPSTREAM_TAG)]
    made_from: dict[str, str] = {}
    for run_id in upstream:
        made_from |= stage_runs(store, read_run(store, run_id))
    return made_from | {str(tags["node"]): str(run.info.run_id)}


def upstream_runs(
    store: ArtifactStore, run_id: str, nodes: Sequence[Node], config: ExperimentConfig
) -> dict[str, str]:  # fmt: skip
    """Returns node name -> run id of the stages before the last one of a plan, as far as a run has them.

    Args:
        store: The open store.
        run_id: A pipeline's run or a stage's run, see `read_run`.
        nodes: The plan; its last stage is what is to be made.
        config: What the plan was made from.

    Raises:
        ConfigError: There is no such run, it has none of the stages, or it is of another dataset or pool.
        StoreError: MLflow does not answer.
    """
    run = read_run(store, run_id)
    if not {"stage", "node"} & set(run.data.tags):
        raise ConfigError(
            f"run '{run_id}'", "It must be one of softgrpo's", "Copy the id from a run's page", code="CONFIG-084"
        )
    _check_same(store, run, config)
    runs = stage_runs(store, run)
    names = [node.name for node in nodes if node.stage.name != nodes[-1].stage.name and node.name in runs]
    if not names:
        raise ConfigError(
            f"run '{run_id}'",
            f"It has no stage that comes before {nodes[-1].stage.name}",
            "Name a run that got further, or leave from_run out",
            code="CONFIG-085",
        )
    return {name: runs[name] for name in names}


def upstream_of(
    store: ArtifactStore, run_id: str, nodes: Sequence[Node], config: ExperimentConfig
) -> dict[str, Reference]:  # fmt: skip
    """Returns what `upstream_runs` finds, its files on this machine and verified.

    Raises:
        ConfigError: See `upstream_runs`.
        StoreError: MLflow does not answer, or files are gone or damaged.
    """
    runs = upstream_runs(store, run_id, nodes, config)
    return {name: store.fetch(name, read_run(store, stage)) for name, stage in runs.items()}


def _check_same(store: ArtifactStore, run: Run, config: ExperimentConfig) -> None:
    """Raises ConfigError where a run's dataset or pool is another one; a stage's run has those of its pipeline."""
    pipeline = run if run.data.tags["stage"] == "pipeline" else read_run(store, run.data.tags[MLFLOW_PARENT_RUN_ID])
    settings: dict[str, Any] = {
        "data.dataset": config.data.dataset,
        "recall.recallers": json.dumps(list(config.recall.recallers)),
    }
    for name, expected in settings.items():
        if (actual := pipeline.data.params.get(name)) != expected:
            raise ConfigError(
                f"run '{run.info.run_id}' with {name} = {actual}",
                f"The stages of a run can be used with the same {name} only, here {expected}",
                "Name another run, or set the same",
                code="CONFIG-086",
            )
