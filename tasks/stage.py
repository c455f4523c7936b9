"""One stage as a Prefect task: reuse what is stored, else run it, and commit.

All stages have the same shape, so there is one task; it takes the node's name. Prefect's record is only a first look: what it
remembers is verified, and the stage repeated where it does not stand.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy

from softgrpo.config import ExperimentConfig
from softgrpo.identity import stage_key
from softgrpo.local_store import Committed
from softgrpo.pipeline import read_metrics, run_node
from softgrpo.stages import Node, Reporter
from softgrpo.tuning import Pruned
from tasks.runs import RunReporter
from tasks.store import ArtifactStore, Reference

Watch = Callable[[Node, Reporter], Reporter]
"""Puts something between a stage and its reporter; it may end the stage with `Pruned`."""


def unwatched(node: Node, reporter: Reporter) -> Reporter:
    """Returns the reporter as it is."""
    return reporter


@dataclass
class Progress:
    """A pipeline run on its way.

    Attributes:
        config: The resolved configuration.
        store: Where stages are found and published.
        parent_run: MLflow run of the pipeline.
        force: Stages to repeat even if they are stored.
        records: Folder of Prefect's result records.
        watch: Put between a stage and its reporter.
        references: Finished nodes, by name.
        looked: Names of the nodes that Prefect did not remember.
        ran: Names of the nodes whose stage was run, not reused.
    """

    config: ExperimentConfig
    store: ArtifactStore
    parent_run: str
    force: tuple[str, ...]
    records: Path
    watch: Watch = unwatched
    references: dict[str, Reference] = field(default_factory=dict)
    looked: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def folders(self) -> dict[str, Path]:
        """Returns the folder of each finished node."""
        return {name: self.store.local.payload(reference["key"]) for name, reference in self.references.items()}

    def reused(self) -> tuple[str, ...]:
        """Returns the names of the nodes that were not run."""
        return tuple(name for name in self.references if name not in self.ran)


def _record(
    progress: Progress, node: Node, key: str, upstream: Mapping[str, Reference], make: Callable[[Reporter], Committed]
) -> Reference:
    """Makes a stage's files inside a new MLflow run and publishes them there."""
    store, runs = progress.store, progress.store.runs
    settings = node.stage.parameters(progress.config, node.variant)
    tags = {"stage": node.stage.name, "node": node.name, "key": key}
    with runs.recorded(node.name, tags, parent=progress.parent_run) as run_id:
        runs.params(run_id, settings)
        store.note_inputs(run_id, upstream)
        reporter = RunReporter(runs, run_id, get_run_logger())
        try:
            committed = make(progress.watch(node, reporter))
        finally:
            reporter.flush()
        runs.metrics(run_id, read_metrics(store.local.payload(key)))
        if not upstream:
            store.note_dataset(run_id, progress.config.data.dataset, committed.digest)
        return store.publish(node, committed, run_id, settings)


def _key(_: Any, parameters: dict[str, Any]) -> str:
    return str(parameters["key"])


@task(
    task_run_name="{key}",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_key),
    persist_result=True,
    result_serializer="json",
)
def obtain(progress: Progress, node: Node, key: str, upstream: dict[str, Reference]) -> Reference:
    """Finds a stage in MLflow or on this machine, or runs it.

    Args:
        progress: The pipeline run.
        node: The stage.
        key: Its identity.
        upstream: What it reads, by node name.
    """
    progress.looked.append(node.name)
    store, log = progress.store, get_run_logger()
    folders = progress.folders()
    inputs = {name: folders[name] for name in node.upstream}
    forced = node.stage.name in progress.force

    def run(reporter: Reporter) -> Committed:
        try:
            return run_node(node, progress.config, inputs, key, store.local, reporter)
        except Pruned:
            shutil.rmtree(store.local.work(key))  # nobody will go on from its checkpoints
            raise

    with store.local.lock(key):
        if not forced:
            if found := store.find(node.name, key):
                log.info("%s: reused from MLflow run %s", node.name, found["run_id"])
                return found
            if here := store.local.find(key):
                log.info("%s: reused from '%s', now published to MLflow", node.name, store.local.payload(key))
                return _record(progress, node, key, upstream, lambda _: here)
        log.info("%s: running", node.name)
        started = time.monotonic()
        progress.ran.append(node.name)
        reference = _record(progress, node, key, upstream, run)
        log.info("%s: done in %.1f s", node.name, time.monotonic() - started)
        return reference


def advance(progress: Progress, node: Node) -> None:
    """Brings one node to its end: from Prefect's record if what it remembers stands, else by the task's body.

    Args:
        progress: The pipeline run; the node's reference is added.
        node: A node whose upstream nodes are finished.
    """
    upstream = {name: progress.references[name] for name in node.upstream}
    key = stage_key(node, progress.config, {name: reference["digest"] for name, reference in upstream.items()})
    forced = node.stage.name in progress.force
    stage = obtain.with_options(
        name=node.stage.name, task_run_name=node.name, result_storage=progress.records, refresh_cache=forced
    )
    reference = stage(progress, node, key, upstream)
    if node.name not in progress.looked:
        if progress.store.holds(reference):
            get_run_logger().info("%s: reused", node.name)
        else:
            reference = stage.with_options(refresh_cache=True)(progress, node, key, upstream)
    progress.references[node.name] = reference
