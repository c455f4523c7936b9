"""One stage as a Prefect task: reuse what is stored, else run it, and commit.

All stages have the same shape, so there is one task, which takes the node's name. Prefect's record is only a first look: what it
remembers is verified, and the stage is repeated where that fails.
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy

from softgrpo.common.redaction import hide_passwords, passwords_hidden
from softgrpo.config import ExperimentConfig
from softgrpo.errors import SoftGRPOError
from softgrpo.pipeline.run import read_metrics, run_node
from softgrpo.pipeline.store import Committed
from softgrpo.reporting import Pruned, Reporter
from softgrpo.stages.contract import Node, Watch, unwatched
from softgrpo.tasks.running.gpu import gpu_slot
from softgrpo.tasks.running.order import Order, check_identity
from softgrpo.tasks.running.progress_file import bar_watches, note_begin, note_end
from softgrpo.tasks.running.progress_page import on_progress_page
from softgrpo.tasks.running.retries import RETRY_DELAYS_SECONDS, worth_retrying
from softgrpo.tasks.tracking.descriptions import NOTE, stage_note
from softgrpo.tasks.tracking.pages import run_page
from softgrpo.tasks.tracking.prefetch import Prefetched
from softgrpo.tasks.tracking.run_names import About
from softgrpo.tasks.tracking.runs import RunReporter
from softgrpo.tasks.tracking.store import ArtifactStore, Reference, dataset

CACHED = "Cached"
"""What Prefect calls the state of a task whose body it did not call."""


class Obtained(Reference):
    """What the task returns: where a finished stage is, and whether it was run for that."""

    ran: bool


@dataclass
class Progress:
    """A pipeline run on its way.

    Attributes:
        config: The resolved configuration.
        store: Where stages are found and published.
        parent_run: MLflow run of the pipeline.
        force: Stages to repeat even if they are stored.
        results: Folder of Prefect's task results.
        watch: Put between a stage and its reporter.
        references: Finished nodes, by name.
        ran: Names of the nodes whose stage was run, not reused.
        about: Name, tags and links of the run, which are known before it begins.
        models: Registered versions of its policies, label -> page.
    """

    config: ExperimentConfig
    store: ArtifactStore
    parent_run: str
    force: tuple[str, ...]
    results: Path
    watch: Watch = unwatched
    prefetched: Prefetched = field(default_factory=Prefetched)
    references: dict[str, Reference] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    about: About = field(default_factory=About)
    models: dict[str, str] = field(default_factory=dict)

    def folders(self) -> dict[str, Path]:
        """Returns the folder of each finished node."""
        return {name: self.store.local.payload(reference["key"]) for name, reference in self.references.items()}

    def take(self, node: str, reference: Reference) -> None:
        """Takes a finished node from elsewhere."""
        self.references[node] = reference
        note_end(self.parent_run, node, "reused")

    def reused(self) -> tuple[str, ...]:
        """Returns the names of the nodes that were not run."""
        return tuple(name for name in self.references if name not in self.ran)

    def order(self, node: Node) -> Order:
        """Returns what brings a node to its end whose upstream nodes are finished."""
        upstream = {name: self.references[name] for name in node.upstream}
        forced = node.stage.name in self.force
        token = uuid.uuid4().hex if forced else ""
        return Order(node, self.config, self.store, self.parent_run, upstream, forced, token, self.watch)

    def seems_stored(self, node: Node) -> bool:
        """Tells, quickly and without looking at files, whether a node whose upstream nodes are finished is likely to be reused."""
        order = self.order(node)
        key = order.key()
        return not order.forced and (key in self.prefetched.futures or self.store.local.seems_committed(key))

    def task(self, order: Order) -> Task[[Order, str], Obtained]:
        """Returns the Prefect task for an order."""
        name = order.node.stage.name
        return obtain.with_options(
            name=name, task_run_name=order.node.name, result_storage=self.results, refresh_cache=order.forced
        )

    def finish(self, order: Order, key: str, state: State[Obtained], *, mine: bool = True) -> None:
        """Takes the outcome of the task for an order; what Prefect remembers is verified, and made again where that fails.

        Args:
            order: The order; its reference is added.
            key: The stage's identity.
            state: How the task ended.
            mine: The task was run for this pipeline, not for another one beside it.
        """
        # An error of the stage is raised here.
        node, obtained = order.node, state.result()

        # Prefect did not call the task: it remembers what an earlier one returned. The files may have gone or changed since.
        if state.name == CACHED:
            if self.store.holds(_reference(obtained)):
                get_run_logger().info("%s: reused", node.name)
                obtained["ran"] = False
            else:
                obtained = self.task(order).with_options(refresh_cache=True)(order, key)

        # Another machine made the files: later stages read them here.
        if order.remote:
            self.store.bring(_reference(obtained))
            get_run_logger().info("%s: %s on the cluster", node.name, "done" if obtained["ran"] else "found")

        # A stage that another pipeline of the same flow has run counts as reused in this one.
        if ran := obtained["ran"] and mine:
            self.ran.append(node.name)
        self.references[node.name] = _reference(obtained)
        note_end(self.parent_run, node.name, "done" if ran else "reused")


def _reference(obtained: Obtained) -> Reference:
    return Reference(stage=obtained["stage"], key=obtained["key"], digest=obtained["digest"], run_id=obtained["run_id"])


def _record(order: Order, key: str, make: Callable[[Reporter], Committed]) -> Reference:
    """Makes a stage's files inside a new MLflow run and publishes them there."""
    node, store, runs = order.node, order.store, order.store.runs
    settings = node.stage.parameters(order.config, node.variant)
    page = run_page(runs.tracking.experiment_id, order.parent_run)
    tags = {
        "stage": node.stage.name,
        "node": node.name,
        "key": key,
        NOTE: stage_note(node.stage.name, node.variant, page),
    }
    with runs.recorded(node.name, tags, parent=order.parent_run) as run_id:
        runs.params(run_id, settings)
        store.note_inputs(run_id, order.upstream)
        reporter = RunReporter(runs, run_id, get_run_logger())
        try:
            committed = make(order.watch(node, reporter))
        except (
            Exception
        ):  # broad: the curves of a failed stage are kept; after Ctrl-C the user does not wait for MLflow
            reporter.flush()
            raise
        reporter.flush()
        runs.metrics(run_id, read_metrics(store.local.payload(key)))
        if not order.upstream:
            store.note_used(run_id, [dataset(order.config.data.dataset, committed.digest)])
        return store.publish(node, committed, run_id, settings, order.config)


def _make(order: Order, key: str, reporter: Reporter) -> Committed:
    """Runs a stage and commits its files."""
    node, store = order.node, order.store
    if order.remote:
        check_identity(order, key)
    elsewhere = None if order.elsewhere is None else partial(order.elsewhere, order, key)
    watches = bar_watches(order.parent_run, node.name)
    try:
        with gpu_slot(node, order.config), on_progress_page(node.name, *watches):
            runnable = order.isolation.node(node, elsewhere) if order.isolation else node
            committed = run_node(runnable, order.config, order.inputs(), key, store.local, reporter)
            if order.forced:
                order.note_made(key)
            return committed
    except Pruned:
        shutil.rmtree(store.local.work(key))  # no training will go on from its checkpoints
        raise
    except SoftGRPOError as error:
        if order.isolation:  # the run ends with it, but only after the stages beside it
            get_run_logger().error("%s: %s", node.name, error)
        raise


def _key(_: Any, parameters: dict[str, Any]) -> str:
    return str(parameters["key"])


@task(
    task_run_name="{key}",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_key),
    persist_result=True,
    result_serializer="json",
    retries=len(RETRY_DELAYS_SECONDS),
    retry_delay_seconds=RETRY_DELAYS_SECONDS,
    retry_condition_fn=worth_retrying,
)
def obtain(order: Order, key: str) -> Obtained:
    """Finds a stage in MLflow or on this machine, or runs it.

    Args:
        order: The stage and what it needs.
        key: Its identity.
    """
    hide_passwords()  # a worker of a cluster has not done so yet
    node, store, log = order.node, order.store, get_run_logger()
    if order.remote:  # a worker's own level would drop these lines
        logging.getLogger("prefect.task_runs").setLevel(logging.INFO)
    with passwords_hidden(), store.local.lock(key):
        if not order.forced or order.is_made(key):
            if not order.forced and (stored := store.find(node.name, key)):
                log.info("%s: reused from MLflow run %s", node.name, stored["run_id"])
                return Obtained(**stored, ran=False)
            if here := store.local.find(key):
                log.info("%s: reused from '%s', now published to MLflow", node.name, store.local.payload(key))
                return Obtained(**_record(order, key, lambda _: here), ran=False)
        log.info("%s: running", node.name)
        note_begin(order.parent_run, node.name)
        started = time.monotonic()
        reference = _record(order, key, partial(_make, order, key))
        log.info("%s: done in %.1f s", node.name, time.monotonic() - started)
        return Obtained(**reference, ran=True)
