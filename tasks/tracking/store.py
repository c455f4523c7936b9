"""Finished stages in MLflow, which is the durable index, with the local folder as a cache of their files.

A stage's run carries its key, the digest of its files and, set last, the mark `committed`. Only a FINISHED run with that mark
counts, and its files count only if they give the digest; a run that was cut off anywhere is never taken for a result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import mlflow
from mlflow.entities import Dataset, DatasetInput, LoggedModelInput, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL, MLFLOW_SOURCE_NAME

from softgrpo.common.digests import digest_folder
from softgrpo.config import ExperimentConfig
from softgrpo.errors import StoreError, is_full_disk
from softgrpo.pipeline.run import read_metrics
from softgrpo.pipeline.store import Committed, LocalStore
from softgrpo.stages.contract import POLICY_STAGES, Node
from softgrpo.tasks.tracking.connection import insert, store_errors
from softgrpo.tasks.tracking.model_metadata import model_tags, write_model_file
from softgrpo.tasks.tracking.runs import Runs, flatten

logger = logging.getLogger("softgrpo.store")

MODEL_STAGES = frozenset(POLICY_STAGES)
PAYLOAD = "payload"
DIGEST_CHARACTERS = 36  # MLflow stores no more of a dataset's digest
CANDIDATES = 5  # committed runs of one key that are tried, the latest first


class Reference(TypedDict):
    """What is passed on about a finished stage: small, JSON-able, enough to find and verify its files."""

    stage: str
    key: str
    digest: str
    run_id: str


class ArtifactStore:
    """Finds, verifies and publishes finished stages.

    Args:
        runs: Access to the runs of one experiment.
        local: Files of finished stages on this machine.
    """

    def __init__(self, runs: Runs, local: LocalStore) -> None:
        self.runs = runs
        self.local = local
        self._prefetched: dict[str, Reference] = {}
        self._models: dict[str, str] = {}

    def __reduce__(self) -> tuple[type[ArtifactStore], tuple[Runs, LocalStore]]:
        """Lets a store be handed to another process, without what was fetched and seen here."""
        return type(self), (self.runs, self.local)

    @property
    def _uri(self) -> str:
        return self.runs.tracking.uri

    def committed(self, key: str) -> list[Run]:
        """Returns the runs that committed a key, the latest first."""
        query = f"tags.key = '{key}' and tags.committed = 'true' and attributes.status = 'FINISHED'"
        with store_errors(self._uri):
            runs = self.runs.tracking.client.search_runs(
                [self.runs.tracking.experiment_id], query, max_results=CANDIDATES, order_by=["attributes.end_time DESC"]
            )
            return list(runs)

    def _download(self, run: Run, stage: str) -> Reference | None:
        key, digest = run.data.tags["key"], run.data.tags["digest"]
        with self.local.staging(key) as folder, store_errors(self._uri):
            try:
                mlflow.artifacts.download_artifacts(
                    artifact_uri=run.data.tags["files"], dst_path=str(folder), tracking_uri=self._uri
                )
            except (MlflowException, OSError) as error:
                if is_full_disk(error):
                    raise
                logger.warning("files of MLflow run %s cannot be read: %s", run.info.run_id, error)
                return None
            if digest_folder(folder / PAYLOAD) != digest:
                logger.warning("files of MLflow run %s are damaged: their digest is another one", run.info.run_id)
                return None
            self.local.commit(key, folder / PAYLOAD, digest)
        return Reference(stage=stage, key=key, digest=digest, run_id=run.info.run_id)

    def find(self, stage: str, key: str) -> Reference | None:
        """Returns a committed stage whose files are on this machine, whole, downloading them if needed; holds the key's lock.

        Args:
            stage: Name of the node, for the reference.
            key: The stage's identity.
        """
        fetched = self._prefetched.pop(key, None)
        if fetched is not None and (here := self.local.find(key)) is not None and here.digest == fetched["digest"]:
            return fetched
        runs = self.committed(key)
        if not runs:
            return None
        here = self.local.find(key)
        for run in runs:
            if here is not None and run.data.tags["digest"] == here.digest:
                return Reference(stage=stage, key=key, digest=here.digest, run_id=run.info.run_id)
        return next((found for run in runs if (found := self._download(run, stage)) is not None), None)

    def fetch(self, stage: str, run: Run) -> Reference:
        """Returns the stage that a run committed, its files on this machine and whole.

        Args:
            stage: Name of the node, for the reference.
            run: Its run.

        Raises:
            StoreError: The run committed nothing, or its files are gone or damaged.
        """
        key, digest = run.data.tags.get("key"), run.data.tags.get("digest")
        if run.data.tags.get("committed") != "true" or run.info.status != "FINISHED" or key is None:
            raise StoreError(
                f"run '{run.info.run_id}' of stage {stage}",
                "Only a finished run whose files were committed can be used",
                "Name a run that finished",
                code="STORE-041",
            )
        with self.local.lock(key):
            here = self.local.find(key)
            if here is not None and here.digest == digest:
                return Reference(stage=stage, key=key, digest=here.digest, run_id=run.info.run_id)
            downloaded = self._download(run, stage)
        if downloaded is None:
            raise StoreError(
                f"files of run '{run.info.run_id}' of stage {stage}",
                "They must be there and have the digest that was committed",
                "Leave from_run out: the stage is then looked for elsewhere, or made again",
                code="STORE-042",
            )
        return downloaded

    def knows(self, key: str) -> bool:
        """Tells, quickly and without looking at files, whether a stage seems to be stored here or in MLflow."""
        return self.local.seems_committed(key) or bool(self.committed(key))

    def bring(self, reference: Reference) -> Path:
        """Returns the folder of a finished stage, its files on this machine and whole.

        Raises:
            StoreError: Its files are gone or damaged.
        """
        with store_errors(self._uri):
            run = self.runs.tracking.client.get_run(reference["run_id"])
        return self.local.payload(self.fetch(reference["stage"], run)["key"])

    def holds(self, reference: Reference) -> bool:
        """Tells whether a remembered stage still stands: its run committed, its files here and whole."""
        try:
            run = self.runs.tracking.client.get_run(reference["run_id"])
        except MlflowException:  # MLflow has forgotten it, or is another one; it is looked for
            return False
        tags, key = run.data.tags, reference["key"]
        if "model_id" in tags:
            self._models[reference["run_id"]] = tags["model_id"]
        mark = (run.info.status, tags.get("committed"), tags.get("key"), tags.get("digest"))
        with self.local.lock(key):
            here = self.local.find(key)
        return here is not None and mark == ("FINISHED", "true", key, reference["digest"]) and here.digest == mark[3]

    def prefetch(self, stage: str, run: Run) -> None:
        """Downloads the files of a committed run, unless they are here; the search for its key then finds them."""
        key = run.data.tags["key"]
        with self.local.lock(key):
            if self.local.find(key) is None and (fetched := self._download(run, stage)) is not None:
                self.local.saw(key, fetched["digest"])
                self._prefetched[key] = fetched

    def publish(
        self, node: Node, committed: Committed, run_id: str, settings: Mapping[str, Any], config: ExperimentConfig
    ) -> Reference:
        """Uploads a stage's files to its run, then marks the run as committed; call with the key's lock held.

        Args:
            node: The stage.
            committed: Its commit in the local folder.
            run_id: Its run, which has to end as FINISHED for the commit to count.
            settings: Parameters of the stage; a model shows them.
            config: The resolved configuration, for what a model takes and gives.
        """
        folder, client = self.local.payload(committed.key), self.runs.tracking.client
        with store_errors(self._uri):
            if node.stage.name in MODEL_STAGES:
                files = self._publish_model(node, folder, run_id, settings, config)
            else:
                client.log_artifacts(run_id, str(folder), PAYLOAD)
                files = f"{client.get_run(run_id).info.artifact_uri}/{PAYLOAD}"
        self.runs.tag(run_id, {"files": files, "digest": committed.digest})
        self.runs.tag(run_id, {"committed": "true"})
        return Reference(stage=node.name, key=committed.key, digest=committed.digest, run_id=run_id)

    def _publish_model(
        self, node: Node, folder: Path, run_id: str, settings: Mapping[str, Any], config: ExperimentConfig
    ) -> str:
        tracking, k = self.runs.tracking, config.fusion.k
        model = tracking.client.create_logged_model(
            tracking.experiment_id,
            node.name,
            run_id,
            {**model_tags(config, node.stage.name), MLFLOW_MODEL_IS_EXTERNAL: "true", MLFLOW_SOURCE_NAME: "softgrpo"},
            flatten(settings),
        )
        status = LoggedModelStatus.FAILED
        try:
            with TemporaryDirectory() as spec:
                write_model_file(Path(spec), model, config.recall.recallers)
                tracking.client.log_model_artifacts(model.model_id, spec)
            tracking.client.log_model_artifacts(model.model_id, str(folder), PAYLOAD)
            status = LoggedModelStatus.READY
        finally:
            tracking.client.finalize_logged_model(model.model_id, status)
        tracking.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        score = {f"validation_ndcg@{k}": read_metrics(folder)["best_ndcg"]}
        self.runs.metrics(run_id, score, {"model_id": model.model_id}, model_id=model.model_id)
        return f"{model.artifact_location}/{PAYLOAD}"

    def note_inputs(self, run_id: str, upstream: Mapping[str, Reference]) -> None:
        """Writes down what a stage reads: digest and run of each upstream stage, and the models among them."""
        tags = {f"upstream_digest.{name}": reference["digest"] for name, reference in upstream.items()}
        tags |= {f"upstream_run.{name}": reference["run_id"] for name, reference in upstream.items()}
        self.runs.tag(run_id, tags)
        client = self.runs.tracking.client
        with store_errors(self._uri):
            model_ids = [
                client.get_run(reference["run_id"]).data.tags.get("model_id") for reference in upstream.values()
            ]
            models = [LoggedModelInput(model_id) for model_id in model_ids if model_id is not None]
            if models:
                client.log_inputs(run_id, models=models)

    def note_used(self, run_id: str, data: Sequence[Dataset], policies: Sequence[Reference] = ()) -> None:
        """Writes down what a run works on: datasets, see `dataset`, and policies that were made before."""
        models = [LoggedModelInput(self._model_of(reference)) for reference in policies]
        if data or models:
            with store_errors(self._uri):
                inputs = [DatasetInput(each) for each in data]
                insert(lambda: self.runs.tracking.client.log_inputs(run_id, inputs, models))

    def note_made(self, run_id: str, policies: Sequence[Reference]) -> None:
        """Writes down the policies that a pipeline's run made."""
        models = [LoggedModelOutput(self._model_of(reference), step=0) for reference in policies]
        if models:
            with store_errors(self._uri):
                self.runs.tracking.client.log_outputs(run_id, models)

    def note_score(self, policy: Reference, name: str, value: float) -> None:
        """Writes down what a policy reached elsewhere than in its own stage, with its model and its run."""
        self.runs.metrics(policy["run_id"], {name: value}, model_id=self._model_of(policy))

    def _model_of(self, policy: Reference) -> str:
        """Returns the id of a policy's LoggedModel."""
        run_id = policy["run_id"]
        if run_id not in self._models:
            with store_errors(self._uri):
                self._models[run_id] = self.runs.tracking.client.get_run(run_id).data.tags["model_id"]
        return self._models[run_id]


def dataset(name: str, digest: str) -> Dataset:
    """Returns what MLflow calls the data of a run.

    Args:
        name: Of the dataset.
        digest: Of the files of the stage `split`.
    """
    source = json.dumps({"tags": {"source": f"RecBole atomic files of {name}"}})
    return Dataset(name, digest[:DIGEST_CHARACTERS], source_type="code", source=source)
