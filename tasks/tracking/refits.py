"""Refits in MLflow: their runs, and the registered versions by which the freshest one is found.

A refit's version stands under the name of the run's policy, beside the version that was evaluated. It was judged by nobody, so the
alias `best` never goes to it; the alias `fresh` goes to the newest. Its tags lead to its run and to the run that was evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import yaml
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME

import softgrpo
from softgrpo.common.digests import digest_json
from softgrpo.common.names import SNAPSHOT_NODE
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.refit import REFIT_OF
from softgrpo.serving.bundle import save_bundle
from softgrpo.stages.inputs import Prepared
from softgrpo.tasks.tracking.bundles import write_model
from softgrpo.tasks.tracking.connection import Tracking, insert, store_errors
from softgrpo.tasks.tracking.descriptions import NOTE, plain
from softgrpo.tasks.tracking.lookup import PIPELINE_TAG, REFIT
from softgrpo.tasks.tracking.model_metadata import model_tags
from softgrpo.tasks.tracking.registry import model_name
from softgrpo.tasks.tracking.runs import COMMIT_TAG, Runs, git_commit
from softgrpo.tasks.tracking.store import Reference, dataset

FRESH = "fresh"
REFIT_RUN, REFIT_KEY, DEBUG = "refit_run", "refit_key", "debug"
DATA_THEN, DATA_NOW = "data_digest_then", "data_digest_now"
UNJUDGED = "No numbers of its own: the report's are those of run {run}, which was evaluated."


@dataclass(frozen=True)
class Lineage:
    """Where a refit comes from.

    Attributes:
        evaluated: MLflow run of the pipeline.
        name: Its name on pages.
        debug: Whether it was made of a small subset of the data.
        data: Digest of its stage `split`.
    """

    evaluated: str
    name: str
    debug: bool
    data: str

    @property
    def tags(self) -> dict[str, str]:
        """What runs and versions are found by."""
        return {REFIT_OF: self.evaluated, DATA_THEN: self.data, DEBUG: str(self.debug).lower()}


@contextmanager
def refit_run(runs: Runs, config: ExperimentConfig, lineage: Lineage) -> Iterator[str]:
    """Starts the MLflow run of a refit, gives its id, and ends it with the block.

    Args:
        runs: Access to the runs.
        config: Settings of the refit.
        lineage: Where it comes from.
    """
    note = f"Recallers of run {lineage.evaluated} trained again. {UNJUDGED.format(run=lineage.evaluated)}"
    tags = {"stage": REFIT, "dataset": config.data.dataset, "seed": str(config.seed), NOTE: plain(note), **lineage.tags}
    if commit := git_commit(Path(softgrpo.__file__).parent):
        tags[COMMIT_TAG] = commit
    settings = config.model_dump(mode="json")
    runs.end_lost()
    with runs.recorded(f"refit: {lineage.name}", tags) as run_id:
        runs.params(run_id, settings)
        with store_errors(runs.tracking.uri):
            runs.tracking.client.log_text(run_id, yaml.safe_dump(settings, sort_keys=False), "config.yaml")
        yield run_id


def note_refit(runs: Runs, run_id: str, config: ExperimentConfig, stages: Mapping[str, Reference]) -> None:
    """Adds the finished stages of a refit to its run, and the digest of its data.

    Args:
        runs: Access to the runs.
        run_id: Of the refit.
        config: Its settings.
        stages: Its own nodes.
    """
    now = stages[SNAPSHOT_NODE]["digest"]
    tags = {f"{PIPELINE_TAG}{name}": reference["run_id"] for name, reference in stages.items()}
    runs.tag(run_id, tags | {DATA_NOW: now})
    with store_errors(runs.tracking.uri):
        data = [mlflow.entities.DatasetInput(dataset(config.data.dataset, now))]
        insert(lambda: runs.tracking.client.log_inputs(run_id, data))


def register_refit(
    runs: Runs,
    config: ExperimentConfig,
    lineage: Lineage,
    run_id: str,
    stages: Mapping[str, Reference],
    folders: Mapping[str, Path],
) -> ModelVersion | None:
    """Adds a refit to the registry, once for the same recallers, and moves the alias `fresh` to it.

    Args:
        runs: Access to the runs.
        config: Settings of the refit.
        lineage: Where it comes from.
        run_id: Of the refit.
        stages: Its own nodes.
        folders: Of all stages that answer, see `softgrpo.flows.results.finished`.

    Returns:
        Its version; None where the run has no policy, under whose name it would stand.

    Raises:
        StoreError: MLflow refuses.
    """
    policy = next((stage for stage in ("grpo", "sft") if stage in folders), None)
    if policy is None:
        return None
    client, name = runs.tracking.client, model_name(config, policy)
    digests = {node: reference["digest"] for node, reference in stages.items()}
    key = digest_json({"of": lineage.evaluated, "stages": digests, "softgrpo": softgrpo.__version__})
    tags = model_tags(config, policy) | lineage.tags | {DATA_NOW: digests[SNAPSHOT_NODE], REFIT_KEY: key}
    with store_errors(runs.tracking.uri):
        version = _version(client, name, key)
        if version is None:
            model = _publish(runs, config, policy, run_id, folders, tags)
            version = _add(client, name, model, run_id, tags | {REFIT_RUN: run_id})
        insert(partial(client.set_registered_model_alias, name, FRESH, version.version))
    return version


def _version(client: mlflow.MlflowClient, name: str, key: str) -> ModelVersion | None:
    """Returns the version of the same refit, None where there is none yet."""
    versions = client.search_model_versions(f"name = '{name}'")
    return next((version for version in versions if version.tags.get(REFIT_KEY) == key), None)


def _publish(
    runs: Runs,
    config: ExperimentConfig,
    policy: str,
    run_id: str,
    folders: Mapping[str, Path],
    tags: Mapping[str, str],
) -> str:
    """Stores the bundle of a refit as a model of MLflow, whole; returns the model's id."""
    client = runs.tracking.client
    model = client.create_logged_model(
        runs.tracking.experiment_id, f"refit-{policy}", run_id, {**tags, MLFLOW_SOURCE_NAME: "softgrpo"}
    )
    about = Model(model.artifact_location, model_uuid=model.model_id, model_id=model.model_id, run_id=run_id)
    status = LoggedModelStatus.FAILED
    try:
        with TemporaryDirectory() as place:
            save_bundle(Path(place) / "bundle", Prepared.of(config, folders), folders, f"{policy}_multi")
            write_model(Path(place) / "model", Path(place) / "bundle", about=about)
            client.log_model_artifacts(model.model_id, str(Path(place) / "model"))
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(model.model_id, status)
    return str(model.model_id)


def _add(client: mlflow.MlflowClient, name: str, model: str, run_id: str, tags: Mapping[str, str]) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    mlflow.set_tracking_uri(client.tracking_uri)  # a SQLite registry looks for `models:/` there
    note = f"Refit of run {tags[REFIT_OF]} on data {tags[DATA_NOW][:12]}. {UNJUDGED.format(run=tags[REFIT_OF])}"
    return client.create_model_version(
        name, f"models:/{model}", run_id=run_id, model_id=model, tags=dict(tags), description=note
    )


def freshest_refit(tracking: Tracking, dataset_name: str) -> str | None:
    """Returns the run of the newest refit of a data set that has the alias `fresh`, refits of debug runs left out.

    Args:
        tracking: An open connection.
        dataset_name: Name of the data set.

    Returns:
        Its id, None where there is none.

    Raises:
        StoreError: MLflow does not answer.
    """
    with store_errors(tracking.uri):
        models = tracking.client.search_registered_models("name LIKE 'softgrpo-%'")
        aliased = [(model.name, model.aliases[FRESH]) for model in models if FRESH in model.aliases]
        versions = [tracking.client.get_model_version(name, number) for name, number in aliased]
    ours = [each for each in versions if each.tags.get("dataset") == dataset_name and each.tags.get(DEBUG) == "false"]
    newest = max(ours, key=lambda each: int(each.creation_timestamp), default=None)
    return None if newest is None else str(newest.tags[REFIT_RUN])
