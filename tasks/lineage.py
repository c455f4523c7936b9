"""Starting from a run that somebody names: its stages stand for those that the plan's keys would find."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.stages import Node
from tasks.store import ArtifactStore, Reference

PIPELINE_TAG = "stage_run."
UPSTREAM_TAG = "upstream_run."


def read_run(store: ArtifactStore, run_id: str) -> Run:
    """Returns a run of MLflow.

    Raises:
        ConfigError: There is none of that id.
    """
    try:
        return store.runs.tracking.client.get_run(run_id)
    except MlflowException as error:
        raise ConfigError(
            f"run '{run_id}'", f"MLflow has no such run ({error.error_code})", "Copy the id from a run's page"
        ) from error


def stage_runs(store: ArtifactStore, run: Run) -> dict[str, str]:
    """Returns node name -> run id of a pipeline's run, or of a stage's run with all that it was made from."""
    tags: Mapping[str, str] = run.data.tags
    if tags.get("stage") == "pipeline":
        return {name.removeprefix(PIPELINE_TAG): found for name, found in tags.items() if name.startswith(PIPELINE_TAG)}
    upstream = {name: found for name, found in tags.items() if name.startswith(UPSTREAM_TAG)}
    made_from: dict[str, str] = {}
    for found in upstream.values():
        made_from |= stage_runs(store, read_run(store, found))
    return made_from | {str(tags["node"]): str(run.info.run_id)}


def upstream_of(
    store: ArtifactStore, run_id: str, nodes: Sequence[Node], config: ExperimentConfig
) -> dict[str, Reference]:  # fmt: skip
    """Returns the stages before the last one of a plan, as far as a run has them, their files on this machine and verified.

    Args:
        store: The open store.
        run_id: A pipeline's run or a stage's run.
        nodes: The plan; its last stage is what is to be made.
        config: What the plan was made from.

    Raises:
        ConfigError: There is no such run, it has none of the stages, or it is of another dataset or pool.
        StoreError: Files are gone or damaged.
    """
    run = read_run(store, run_id)
    if not {"stage", "node"} & set(run.data.tags):
        raise ConfigError(f"run '{run_id}'", "It must be one of softgrpo's", "Copy the id from a run's page")
    _check_same(store, run, config)
    found = stage_runs(store, run)
    wanted = [node.name for node in nodes if node.stage.name != nodes[-1].stage.name and node.name in found]
    if not wanted:
        raise ConfigError(
            f"run '{run_id}'",
            f"It has no stage that comes before {nodes[-1].stage.name}",
            "Name a run that got further, or leave from_run out",
        )
    return {name: store.fetch(name, read_run(store, found[name])) for name in wanted}


def _check_same(store: ArtifactStore, run: Run, config: ExperimentConfig) -> None:
    """Raises ConfigError where a run's dataset or pool is another one; a stage's run has those of its pipeline."""
    pipeline = run if run.data.tags["stage"] == "pipeline" else read_run(store, run.data.tags[MLFLOW_PARENT_RUN_ID])
    settings: dict[str, Any] = {
        "data.dataset": config.data.dataset,
        "recall.recallers": json.dumps(list(config.recall.recallers)),
    }
    for name, wanted in settings.items():
        if (there := pipeline.data.params.get(name)) != wanted:
            raise ConfigError(
                f"run '{run.info.run_id}' with {name} = {there}",
                f"The stages of a run can be used with the same {name} only, here {wanted}",
                "Name another run, or set the same",
            )
