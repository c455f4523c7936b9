"""MLflow's model registry: every policy of one dataset, model, stage and pool is a version of one registered model.

The alias `best` is on the version with the best validation NDCG. Versions are compared only where they were judged alike: on the
same split, by the same cut-off. One that was judged otherwise takes the alias over if it was judged on as many windows or more.
"""

from __future__ import annotations

import re

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from softgrpo.config import ExperimentConfig
from tasks.runs import Runs
from tasks.store import Reference
from tasks.tracking import store_errors

BEST = "best"
NDCG, WINDOWS, JUDGE = "validation_ndcg", "validation_windows", "judged_by"


def model_name(config: ExperimentConfig, stage: str) -> str:
    """Returns `softgrpo-<dataset>-<model>-<stage>-<recallers>`; the model is the last part of its name that tells it apart."""
    model = re.sub(r"^package:([^/]*).*$", r"\1", config.policy.model_name).rstrip("/").rpartition("/")[2]
    parts = ("softgrpo", config.data.dataset, model, stage, "_".join(config.recall.recallers))
    return re.sub(r"[^\w.-]", "_", "-".join(parts))


def better(new: dict[str, str], old: dict[str, str]) -> bool:
    """Tells whether a version with the tags `new` takes the alias from one with the tags `old`."""
    if new[JUDGE] == old[JUDGE]:
        return float(new[NDCG]) > float(old[NDCG])
    return float(new[WINDOWS]) >= float(old[WINDOWS])


def register(runs: Runs, config: ExperimentConfig, stage: str, reference: Reference, split_digest: str) -> str:
    """Adds a finished policy to the registry, once, and moves the alias if it is the best.

    Args:
        runs: Access to the runs.
        config: The resolved configuration.
        stage: sft or grpo.
        reference: The policy's stage.
        split_digest: Of the split whose validation windows judged it.

    Returns:
        Name of the registered model.

    Raises:
        StoreError: MLflow refuses.
    """
    client, name = runs.tracking.client, model_name(config, stage)
    with store_errors(runs.tracking.uri):
        if client.search_model_versions(f"name = '{name}' and run_id = '{reference['run_id']}'"):
            return name
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        run = client.get_run(reference["run_id"])
        model = client.get_logged_model(run.data.tags["model_id"])
        tags = {
            NDCG: repr(run.data.metrics["best_ndcg"]),
            WINDOWS: repr(run.data.metrics["validation_windows"]),
            JUDGE: f"ndcg@{config.fusion.k} on split {split_digest[:12]}",
        }
        version = client.create_model_version(
            name, model.artifact_location, run_id=run.info.run_id, model_id=model.model_id, tags=tags
        )
        best = _best(runs, name)
        if best is None or better(tags, best.tags):
            client.set_registered_model_alias(name, BEST, version.version)
    return name


def _best(runs: Runs, name: str) -> ModelVersion | None:
    client = runs.tracking.client
    alias = client.get_registered_model(name).aliases.get(BEST)
    return None if alias is None else client.get_model_version(name, alias)
