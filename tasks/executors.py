"""Executors bring the stages of a plan to their end: one after another, several recallers at once, or on a Dask cluster.

A flow opens one with `open_executor` and passes it to each pipeline that it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from itertools import groupby
from threading import Lock
from typing import Any, TypeVar

from prefect import State, get_run_logger
from prefect.futures import PrefectWrappedFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from softgrpo.common.cores import free_cores
from softgrpo.stages.contract import Node
from softgrpo.tasks.running.cluster import (
    PATIENCE_SECONDS,
    answers,
    losses_are_readable,
    package_is_missing,
    threads_of_workers,
)
from softgrpo.tasks.running.cluster_pieces import make_on_cluster
from softgrpo.tasks.running.gpu import uses_gpu
from softgrpo.tasks.running.isolation import Isolation
from softgrpo.tasks.running.order import Order
from softgrpo.tasks.servers.addresses import check_workers
from softgrpo.tasks.stage import Obtained, Progress

PULSE_SECONDS = 0.5
CORES_FOR_ONE = 2
"""Cores for which one recaller more is trained at the same time, unless a run says how many; see docs/performance.md."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def independent_batches(nodes: Sequence[Node]) -> list[list[Node]]:
    """Returns a plan in batches, in order; the nodes of a batch have equal upstream nodes, so that none waits for another."""
    return [list(batch) for _, batch in groupby(nodes, key=lambda node: node.upstream)]


class Executor:
    """Runs stages one after another, in this process.

    Executors are parameters of flows. They have no `__dict__`, so that Prefect stores their names with the parameters of a flow
    run, and not all that they refer to.
    """

    __slots__ = ()

    @property
    def works_here(self) -> bool:
        """Whether the stages run on this machine."""
        return True

    @property
    def pipelines_at_once(self) -> int:
        """How many pipelines are worth running at the same time."""
        return 1

    @property
    def recallers_at_once(self) -> int:
        """How many recallers of one pipeline are trained at the same time on this machine."""
        return 1

    def batches(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Returns a plan in the batches that `run_nodes` takes."""
        return [[node] for node in nodes]

    def run_nodes(self, progress: Progress, nodes: Sequence[Node]) -> None:
        """Brings nodes to their end: from Prefect's record if what it remembers still holds, else by the task's body.

        Args:
            progress: The pipeline run; the nodes' references are added.
            nodes: A batch of the plan whose upstream nodes are finished.
        """
        for node in nodes:
            order = progress.order(node)
            key = order.key()
            progress.prefetched.wait(key)
            progress.finish(order, key, progress.task(order)(order, key, return_state=True))

    def map_pipelines(self, run_pipeline: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Returns what a function that runs a whole pipeline returns for each item."""
        return [run_pipeline(item) for item in items]


class ParallelExecutor(Executor):
    """Trains several recallers at once, each in a process of its own; runs all other stages as `Executor` does.

    Args:
        recallers: How many at once.
        explicit: The run says how many. Where it does not, recallers that use a GPU do not share it.
    """

    __slots__ = ("_recallers", "explicit")

    def __init__(self, recallers: int, explicit: bool = True) -> None:
        self._recallers = recallers
        self.explicit = explicit

    @property
    def recallers_at_once(self) -> int:
        """How many recallers of one pipeline are trained at the same time on this machine."""
        return self._recallers

    def batches(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Returns a plan in the batches that `run_nodes` takes."""
        return independent_batches(nodes)

    def run_nodes(self, progress: Progress, nodes: Sequence[Node]) -> None:
        """Brings nodes to their end; processes are started only where at least two stages have to be run."""
        # One stage alone gets all cores, and recallers share a GPU only where the run says how many are trained at once.
        orders = {order.key(): order for order in map(progress.order, nodes)}
        missing = [key for key, order in orders.items() if order.forced or not progress.store.knows(key)]
        would_share_gpu = not self.explicit and any(uses_gpu(node, progress.config) for node in nodes)
        if len(missing) < 2 or would_share_gpu:
            super().run_nodes(progress, nodes)
            return

        # Stored stages need no process: they are taken here, and first.
        super().run_nodes(progress, [order.node for key, order in orders.items() if key not in missing])

        # The block is guarded twice: while the futures are waited for, and while the pool waits, after the error of one stage, for
        # those that are still at work.
        workers = min(self._recallers, len(missing))
        isolation = Isolation(max(1, free_cores() // workers))
        with isolation.until_interrupted(), ThreadPoolTaskRunner[Any](workers) as pool, isolation.until_interrupted():
            isolated = [(key, replace(orders[key], isolation=isolation)) for key in missing]
            futures = [(order, key, _submit(pool, progress, order, key)) for key, order in isolated]
            for order, key, future in futures:
                # In small steps: a signal that the system delivered to another thread reaches this one only when it wakes.
                while not wait([future.wrapped_future], PULSE_SECONDS).done:
                    pass
                progress.finish(order, key, _state(future))


class DaskExecutor(Executor):
    """Runs every stage that is not stored on a Dask cluster, each in a process of its own, and whole pipelines side by side.

    Work on windows is cut into pieces that all workers make, see `softgrpo.tasks.running.cluster_pieces`.

    When a worker dies, Dask gives its stages to another one. A stage that is run twice does no harm: what it commits has the same
    key.

    Args:
        runner: Prefect's open connection to the cluster.
        stages: How many stages the cluster runs at once.
    """

    __slots__ = ("_futures", "_lock", "_runner", "_stages")

    def __init__(self, runner: Any, stages: int) -> None:
        self._runner = runner
        self._stages = stages
        self._lock = Lock()
        self._futures: dict[str, PrefectWrappedFuture[Any, Any]] = {}

    def __reduce__(self) -> tuple[type[Executor], tuple[()]]:
        """Lets Prefect send the parameters of a flow to a worker with each task; a worker runs no pipeline and needs no cluster."""
        return Executor, ()

    @property
    def works_here(self) -> bool:
        """Whether the stages run on this machine."""
        return False

    @property
    def pipelines_at_once(self) -> int:
        """How many pipelines are worth running at the same time."""
        return self._stages

    def batches(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Returns a plan in the batches that `run_nodes` takes."""
        return independent_batches(nodes)

    def run_nodes(self, progress: Progress, nodes: Sequence[Node]) -> None:
        """Brings nodes to their end; a stage that another pipeline of the same flow has submitted is waited for."""
        # Submit all that is not stored before anything is waited for. The first pipeline that needs a key submits it.
        submitted = []
        for order in map(progress.order, nodes):
            key = order.key()
            if order.forced or not progress.store.knows(key):
                order = replace(order, isolation=Isolation(), elsewhere=make_on_cluster, remote=True)
                with self._lock:
                    mine = key not in self._futures
                    if mine:
                        self._futures[key] = _submit(self._runner, progress, order, key)
                submitted.append((order, key, mine))
            else:
                super().run_nodes(progress, [order.node])

        # Only the pipeline that submitted a stage counts it as its own.
        for order, key, mine in submitted:
            progress.finish(order, key, self._wait(order.node, key), mine=mine)

    def _wait(self, node: Node, key: str) -> State[Obtained]:
        with losses_are_readable(node.name):
            return _state(self._futures[key])

    def map_pipelines(self, run_pipeline: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Returns what a function returns for each item, all at the same time; the first error ends the others too."""
        inputs = list(items)
        with ThreadPoolExecutor(len(inputs)) as threads:
            futures = [threads.submit(copy_context().run, run_pipeline, item) for item in inputs]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:  # broad: however it ends, the others are not waited for; it goes on to the caller
                self._runner.client.cancel([future.wrapped_future for future in self._futures.values()])
                raise
            return [future.result() for future in futures]


def _submit(runner: TaskRunner[Any], progress: Progress, order: Order, key: str) -> PrefectWrappedFuture[Any, Any]:
    future: PrefectWrappedFuture[Any, Any] = runner.submit(progress.task(order), {"order": order, "key": key})
    return future


def _state(future: PrefectWrappedFuture[Any, Any]) -> State[Obtained]:
    """Waits for a task and returns its state; what this raises is an error of the pool or the cluster, not of the task."""
    state: State[Obtained] = future.wrapped_future.result()
    return state


SERIAL = Executor()


@contextmanager
def open_executor(parallel: int | None = None, dask: str | None = None) -> Iterator[Executor]:
    """Gives the executor that a run asks for; call it inside a flow.

    Args:
        parallel: How many recallers are trained at once on this machine; None takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, on which every stage is run that is not stored.

    Raises:
        ConfigError: See `check_workers`; or the packages for Dask are missing.
        StoreError: Nothing answers at the address, or the cluster has no worker.
    """
    check_workers(parallel, dask)
    if dask is not None:
        with _open_cluster(dask) as cluster:
            yield cluster
        return
    recallers = parallel if parallel is not None else max(1, free_cores() // CORES_FOR_ONE)
    yield ParallelExecutor(recallers, parallel is not None) if recallers > 1 else SERIAL


@contextmanager
def _open_cluster(address: str) -> Iterator[DaskExecutor]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise package_is_missing(address) from error
    with DaskTaskRunner(address=address, client_kwargs={"timeout": PATIENCE_SECONDS}) as runner:
        with answers(address):
            client = runner.client  # connects
        stages = sum(threads_of_workers(client, address).values())
        get_run_logger().info("stages run on the Dask cluster at %s, %d at once", address, stages)
        yield DaskExecutor(runner, stages)
