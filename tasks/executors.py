"""Who brings stages to their end that do not wait for each other: this process alone, others beside it, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from itertools import groupby
from threading import Lock
from typing import Any, TypeVar

from prefect import State, get_run_logger
from prefect.futures import PrefectWrappedFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from softgrpo.errors import ConfigError, ProcessError, StoreError
from softgrpo.stages.contract import Node
from tasks.running.gpu import uses_gpu
from tasks.running.isolation import Apart, free_cores
from tasks.servers.addresses import check_hands
from tasks.stage import Obtained, Order, Progress

PATIENCE_SECONDS = 8
PULSE_SECONDS = 0.5
CORES_FOR_ONE = 2
"""Cores for which one recaller more is trained at the same time, unless a run says how many; see docs/performance.md."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def waves(nodes: Sequence[Node]) -> list[list[Node]]:
    """Returns a plan in pieces, in order; the nodes of a piece have equal upstream nodes, so that none waits for another."""
    return [list(piece) for _, piece in groupby(nodes, key=lambda node: node.upstream)]


class Crew:
    """Brings stages to their end one after another, in this process."""

    width: int = 1
    """How many pipelines are worth running at once."""

    def waves(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Returns a plan in the pieces that `advance` takes."""
        return [[node] for node in nodes]

    def advance(self, progress: Progress, nodes: Sequence[Node]) -> None:
        """Brings nodes to their end: from Prefect's record if what it remembers stands, else by the task's body.

        Args:
            progress: The pipeline run; the nodes' references are added.
            nodes: A piece of the plan whose upstream nodes are finished.
        """
        for node in nodes:
            order = progress.order(node)
            key = order.key()
            progress.ahead.wait(key)
            progress.finish(order, key, progress.task(order)(order, key, return_state=True))

    def each(self, run: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Returns what a function gives for each item; it runs a whole pipeline."""
        return [run(item) for item in items]


@dataclass(frozen=True)
class Parallel(Crew):
    """Trains several recallers at once, each in a process of its own; all else goes as ever.

    Attributes:
        most: How many at once.
        asked: A run says so; where none does, recallers that use a GPU do not share it.
    """

    most: int
    asked: bool = True

    def waves(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Returns a plan in the pieces that `advance` takes."""
        return waves(nodes)

    def advance(self, progress: Progress, nodes: Sequence[Node]) -> None:
        """Brings nodes to their end; processes are started only where at least two stages have to be run."""
        # one stage, or several that would share a GPU unasked, go one after the other in this process
        orders = {order.key(): order for order in map(progress.order, nodes)}
        missing = [key for key, order in orders.items() if order.forced or not progress.store.knows(key)]
        shared = len(missing) > 1 and not self.asked and any(uses_gpu(node, progress.config) for node in nodes)
        if len(missing) < 2 or shared:
            super().advance(progress, nodes)
            return

        # what is stored needs no process
        super().advance(progress, [order.node for key, order in orders.items() if key not in missing])

        # the cores are shared out among the processes
        workers = min(self.most, len(missing))
        apart = Apart(max(1, free_cores() // workers))
        # twice: while they are waited for, and while the pool waits for those that are at work after an error of one
        with apart.until_interrupted(), ThreadPoolTaskRunner[Any](workers) as pool, apart.until_interrupted():
            placed = [(key, replace(orders[key], apart=apart)) for key in missing]
            futures = [(order, key, _submit(pool, progress, order, key)) for key, order in placed]
            for order, key, future in futures:
                # in small steps: a signal that the system gave to another thread reaches this one when it wakes
                while not wait([future.wrapped_future], PULSE_SECONDS).done:
                    pass
                progress.finish(order, key, _state(future))


@dataclass(frozen=True)
class Cluster(Crew):
    """Runs every stage that is not stored on a Dask cluster, each in a process of its own, and whole pipelines side by side.

    A worker that dies takes its stages along: Dask gives them to another, which makes the same again. No harm is done by a stage
    that is run twice, since what it commits has the same key.

    Attributes:
        runner: Prefect's way to the cluster, open.
        width: How many stages the cluster runs at once.
    """

    runner: Any
    width: int
    _lock: Any = field(default_factory=Lock)
    _futures: dict[str, PrefectWrappedFuture[Any, Any]] = field(default_factory=dict)

    def waves(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Returns a plan in the pieces that `advance` takes."""
        return waves(nodes)

    def advance(self, progress: Progress, nodes: Sequence[Node]) -> None:
        """Brings nodes to their end; a stage that another pipeline of the same flow has asked for is waited for."""
        waited = []
        for order in map(progress.order, nodes):
            key = order.key()
            if order.forced or not progress.store.knows(key):
                order = replace(order, apart=Apart(), away=True)
                with self._lock:
                    mine = key not in self._futures
                    if mine:
                        self._futures[key] = _submit(self.runner, progress, order, key)
                waited.append((order, key, mine))
            else:
                super().advance(progress, [order.node])
        for order, key, mine in waited:
            progress.finish(order, key, self._wait(order.node, key), mine=mine)

    def _wait(self, node: Node, key: str) -> State[Obtained]:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            return _state(self._futures[key])
        except KilledWorker as error:
            raise ProcessError(
                f"{node.name}: {error}",
                "A stage that takes one worker after another down is given up; perhaps it needs more memory than they have",
                "Look into the workers' logs, give them more, and run the same command again",
            ) from error
        except FutureCancelledError as error:
            raise StoreError(
                f"{node.name}: {error}",
                "The Dask scheduler must be there for as long as the run",
                "Start it again and run the same command; finished stages are reused",
            ) from error

    def each(self, run: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Returns what a function gives for each item, all at the same time; the first error ends the others too."""
        wanted = list(items)
        with ThreadPoolExecutor(len(wanted)) as threads:
            futures = [threads.submit(copy_context().run, run, item) for item in wanted]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:  # broad: however it ends, nobody waits for the others; it goes on to the caller
                self.runner.client.cancel([future.wrapped_future for future in self._futures.values()])
                raise
            return [future.result() for future in futures]


def _submit(runner: TaskRunner[Any], progress: Progress, order: Order, key: str) -> PrefectWrappedFuture[Any, Any]:
    future: PrefectWrappedFuture[Any, Any] = runner.submit(progress.task(order), {"order": order, "key": key})
    return future


def _state(future: PrefectWrappedFuture[Any, Any]) -> State[Obtained]:
    """Waits for a task and returns its state; an error is one of those who were to run it."""
    state: State[Obtained] = future.wrapped_future.result()
    return state


ALONE = Crew()
_crew: ContextVar[Crew] = ContextVar("crew", default=ALONE)


def current() -> Crew:
    """Returns who brings stages to their end in the flow that runs here, see `opened`."""
    return _crew.get()


@contextmanager
def opened(parallel: int | None = None, dask: str | None = None) -> Iterator[Crew]:
    """Lets the pipelines of a block go as a run says; call it inside a flow.

    Args:
        parallel: How many recallers are trained at once on this machine; None takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, on which every stage is run that is not stored.

    Raises:
        ConfigError: See `check_hands`; or the packages for Dask are missing.
        StoreError: Nobody answers at the address, or the cluster has no worker.
    """
    check_hands(parallel, dask)
    if dask is not None:
        with _cluster(dask) as cluster, _current(cluster):
            yield cluster
        return
    most = parallel if parallel is not None else max(1, free_cores() // CORES_FOR_ONE)
    with _current(Parallel(most, parallel is not None) if most > 1 else ALONE) as chosen:
        yield chosen


@contextmanager
def _current(chosen: Crew) -> Iterator[Crew]:
    token = _crew.set(chosen)
    try:
        yield chosen
    finally:
        _crew.reset(token)


@contextmanager
def _cluster(address: str) -> Iterator[Cluster]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ConfigError(
            f"--dask {address}", "A package for Dask is missing", "pip install -c constraints.txt -e '.[dask]'"
        ) from error
    with DaskTaskRunner(address=address, client_kwargs={"timeout": PATIENCE_SECONDS}) as runner:
        try:
            width = sum(runner.client.nthreads().values())
        except (OSError, ValueError) as error:  # nobody answers; or it is no address
            raise StoreError(
                f"--dask {address}: {error}", "A Dask scheduler must answer there", "Start it, or correct the address"
            ) from error
        if not width:
            raise StoreError(
                f"The Dask cluster at {address}", "It must have a worker", "Start one: dask worker ADDRESS"
            )
        get_run_logger().info("stages run on the Dask cluster at %s, %d at once", address, width)
        yield Cluster(runner, width)
