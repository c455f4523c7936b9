"""MLflow's model registry: every policy of one dataset, model, stage and pool is a version of one registered model.

The alias `best` is on the version with the best validation NDCG. Versions are compared only if they were judged alike: on the
same split, at the same cut-off. A version that was judged otherwise takes the alias if it was judged on as many windows or more.

Several machines may do all this at the same time, and any of them may stop half-way. So each of them repairs what it finds: it
deletes a run's second version, and after moving the alias it looks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from softgrpo.config import ExperimentConfig
from softgrpo.tasks.tracking.connection import insert, store_errors
from softgrpo.tasks.tracking.descriptions import plain
from softgrpo.tasks.tracking.model_metadata import model_tags
from softgrpo.tasks.tracking.runs import Runs
from softgrpo.tasks.tracking.store import Reference

BEST = "best"
NDCG, WINDOWS, JUDGE = "validation_ndcg", "validation_windows", "judged_by"


def model_name(config: ExperimentConfig, stage: str) -> str:
    """Returns `softgrpo-<dataset>-<model>-<stage>-<recallers>`; the model is given by the last part of its name."""
    model = re.sub(r"^package:([^/]*).*$", r"\1", config.policy.model_name).rstrip("/").rpartition("/")[2]
    parts = ("softgrpo", config.data.dataset, model, stage, "_".join(config.recall.recallers))
    return re.sub(r"[^\w.-]", "_", "-".join(parts))


def best_version(versions: Iterable[ModelVersion]) -> ModelVersion | None:
    """Returns the version with the highest validation NDCG, the first of equal ones, whatever order they come in.

    NDCG of another cut-off or split cannot be compared: of several judges the one with the most windows counts, and of equal ones
    that of the newest version. Only versions that this project made count.
    """
    ours = sorted((version for version in versions if JUDGE in version.tags), key=lambda version: int(version.version))
    if not ours:
        return None
    judge = max(ours, key=lambda version: (float(version.tags[WINDOWS]), int(version.version))).tags[JUDGE]
    return max(
        (version for version in ours if version.tags[JUDGE] == judge), key=lambda version: float(version.tags[NDCG])
    )


def register(runs: Runs, config: ExperimentConfig, stage: str, reference: Reference, split_digest: str) -> ModelVersion:
    """Adds a finished policy to the registry, once, and moves the alias to the best.

    Args:
        runs: Access to the runs.
        config: The resolved configuration.
        stage: sft or grpo.
        reference: The policy's stage.
        split_digest: Of the split whose validation windows judged it.

    Returns:
        Its version.

    Raises:
        StoreError: MLflow refuses.
    """
    client, name, run_id = runs.tracking.client, model_name(config, stage), reference["run_id"]
    with store_errors(runs.tracking.uri):
        versions = _versions(client, name)
        if all(version.run_id != run_id for version in versions):
            sample = config.train.max_valid_windows  # drawn with the seed, which is part of the split
            judge = f"ndcg@{config.fusion.k} on split {split_digest[:12]}"
            tags = model_tags(config, stage) | {JUDGE: judge if sample is None else f"{judge}, sample of {sample}"}
            _add(client, name, run_id, tags, _described(config, stage))
            versions = _versions(client, name)
        _settle(client, name, versions)
    return min((version for version in versions if version.run_id == run_id), key=lambda version: int(version.version))


def is_external(runs: Runs, run_id: str) -> bool:
    """Tells whether MLflow cannot load the policy of a stage's run yet."""
    client = runs.tracking.client
    with store_errors(runs.tracking.uri):
        model = client.get_logged_model(client.get_run(run_id).data.tags["model_id"])
    return bool(model.tags.get(MLFLOW_MODEL_IS_EXTERNAL) == "true")


def _described(config: ExperimentConfig, stage: str) -> str:
    policy = {"sft": "SFT policy", "grpo": "SofT-GRPO policy"}[stage]
    pool = ", ".join(config.recall.recallers)
    return (
        f"{policy} for {plain(config.data.dataset)}: reads a user's prompt and weighs {plain(pool)}. The alias `{BEST}` is on the "
        "version with the best NDCG on validation windows. `mlflow.pyfunc.load_model` and `mlflow models serve` take tables of "
        "candidates; `softgrpo.serving.pure_models.load_model` loads the policy alone."
    )


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'"))


def _add(client: MlflowClient, name: str, run_id: str, tags: dict[str, str], description: str) -> None:
    """Adds a version, and takes it back where another machine added one of the same run before."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = client.get_run(run_id)
    model = client.get_logged_model(run.data.tags["model_id"])
    metrics = run.data.metrics
    tags = {NDCG: repr(metrics["best_ndcg"]), WINDOWS: repr(metrics["validation_windows"]), **tags}
    score = f"NDCG {metrics['best_ndcg']:.4f} on {metrics['validation_windows']:.0f} validation windows ({tags[JUDGE]})"
    mlflow.set_tracking_uri(client.tracking_uri)  # a SQLite registry looks for `models:/` there
    added = client.create_model_version(
        name, f"models:/{model.model_id}", run_id=run_id, model_id=model.model_id, tags=tags, description=score
    )
    same = [int(version.version) for version in _versions(client, name) if version.run_id == run_id]
    if int(added.version) > min(same):
        client.delete_model_version(name, added.version)


def _settle(client: MlflowClient, name: str, versions: list[ModelVersion]) -> None:
    """Puts the alias on the best version, and looks again after writing it, so that the last writer has seen all versions."""
    while best := best_version(versions):
        if str(client.get_registered_model(name).aliases.get(BEST)) == str(best.version):
            return
        insert(partial(client.set_registered_model_alias, name, BEST, best.version))
        versions = _versions(client, name)
