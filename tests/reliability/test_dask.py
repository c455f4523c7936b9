"""Stages on a Dask cluster of two workers, one of which is really killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from softgrpo.flows.services.control import Services
from tests.reliability.runs import (
    ROOT,
    Api,
    Command,
    Problem,
    Tracked,
    digests,
    flags,
    free_port,
    wait_until,
    write_dataset,
)
from tests.support.warm import COMMAND, WarmProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LONG_SECONDS = 900.0
"""Two pipelines, their workers and their servers, on two cores that others use too."""
MANY_USERS = 3000
"""With windows of one item they make several pieces of each stage."""


@dataclass(frozen=True)
class Dask:
    """A scheduler and two workers, each of which runs one stage at a time.

    Attributes:
        address: Of the scheduler.
        workers: Their processes.
        folder: Of their logs.
    """

    address: str
    workers: tuple[subprocess.Popen[bytes], ...]
    folder: Path

    def at_work(self) -> dict[int, list[psutil.Process]]:
        """Returns the processes of the stages that each living worker is at, by the worker's number."""
        alive = {place: worker for place, worker in enumerate(self.workers) if worker.poll() is None}
        return {place: psutil.Process(worker.pid).children(recursive=True) for place, worker in alive.items()}

    def said(self) -> str:
        """Returns all that the workers have said so far."""
        return "\n".join(path.read_text(encoding="utf-8") for path in self.folder.glob("worker*.log"))

    def kill_one_that_trains(self, output: Path) -> list[psutil.Process]:
        """Kills a worker with -9 whose training has a checkpoint; returns the processes of its stages."""
        place = wait_until(lambda: self._training(output), "a checkpoint", pause=0.01)[0]
        stages = self.at_work()[place]
        self.workers[place].kill()
        self.workers[place].wait()
        return stages

    def _training(self, output: Path) -> list[int]:
        """Returns the numbers of the workers that hold the lock of a training with a checkpoint."""
        checkpoints = (output / "stages" / ".work").glob("*/checkpoints/checkpoint-*/trainer_state.json")
        locks = {str(output / "stages" / ".locks" / path.parts[-4]) for path in checkpoints}
        return [
            place
            for place in (self.at_work() if locks else ())
            if locks & {file.path for file in psutil.Process(self.workers[place].pid).open_files()}
        ]


def _start(folder: Path, name: str, *words: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", *words]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


@pytest.fixture
def cluster(services: Services, tmp_path: Path) -> Iterator[Dask]:
    folder, port = tmp_path / "dask", free_port()
    folder.mkdir()
    address = f"tcp://127.0.0.1:{port}"
    environment = {**os.environ, **services.addresses, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    where = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0")
    scheduler = _start(folder, "scheduler", *where, environment=environment)
    word = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder))
    workers = tuple(_start(folder, f"worker{place}", *word, environment=environment) for place in range(2))
    try:
        wait_until(lambda: _workers(address) == 2, "two workers", seconds=60)
        yield Dask(address, workers, folder)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def _workers(address: str) -> int:
    from distributed import Client

    try:
        with Client(address, timeout=5, set_as_default=False) as client:
            return len(client.nthreads())
    except OSError:
        return 0


def start(problem: Problem, *words: str, more: Mapping[str, Any] | None = None) -> Command:
    """Starts a command on a problem; `Problem.start` does so for the command `run`."""
    command = [*words, "--output", str(problem.output), *flags(problem.settings(more))]
    problem.output.parent.mkdir(parents=True, exist_ok=True)
    log = problem.output.parent / f"{problem.output.name}-{time.monotonic_ns()}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **problem.addresses}
    return Command(WarmProcess(COMMAND, command, ROOT, environment, log), log, problem.output)


def test_kill_9_of_a_dask_worker(make_problem: Callable[..., Problem], services: Services, cluster: Dask) -> None:
    """In a training of one of two pools: the other worker goes on from its checkpoint, and all is as if nothing had happened."""
    problem = make_problem("dask", services)
    words = ("multi-recaller", problem.dataset, "full", "tiny", "--pools", "BPR,ItemKNN", "BPR,Pop")
    run = start(problem, *words, "--dask", cluster.address)
    orphans = cluster.kill_one_that_trains(problem.output)
    said = run.end(seconds=LONG_SECONDS)
    assert "on the Dask cluster" in said and "Traceback" not in said
    assert not any(process.is_running() for process in orphans), "a stage does not outlive its worker"
    of_a_pool = ["data", "check", "gates", "sft", "grpo", "test"]
    assert Tracked(problem).committed() == sorted(
        ["split", "recall-BPR", "recall-ItemKNN", "recall-Pop", *2 * of_a_pool]
    )
    states = Tracked(problem).states("sft")
    assert len(states) == 3 and states.count("FINISHED") == 2  # the killed one and two whole ones
    assert "resuming from checkpoint-" in cluster.said()
    assert not any((problem.output / "stages" / ".work").iterdir())
    alone = replace(problem, output=problem.output.with_name("alone"), services=None)
    start(alone, *words).end(seconds=LONG_SECONDS)
    assert keys(problem.output) == keys(alone.output)
    again = start(problem, *words, "--dask", cluster.address).end()
    assert ": running" not in again  # no worker is needed for that


def test_a_worker_that_hangs_and_dies_costs_its_pieces(
    make_problem: Callable[..., Problem], services: Services, cluster: Dask
) -> None:
    """Lists, numbers, prompts and checks are made by both workers in pieces; the files are those of one process."""
    problem = make_problem("daskpieces", services)
    write_dataset(problem.data, problem.dataset, MANY_USERS)
    alone = replace(problem, output=problem.output.with_name("alone"), services=None)
    words = {"stage": "check", "more": {"split.window": 1, "recall.settings": {"BPR": {"epochs": 1}}}}
    alone.start(**words).end(seconds=LONG_SECONDS)

    run = problem.start("--dask", cluster.address, **words)
    pieces = problem.output / "stages" / ".work"
    wait_until(lambda: any(pieces.glob("data-*/pieces/*.given")), "a piece", pause=0.002)
    (helper,) = (place for place, stages in cluster.at_work().items() if not stages)
    cluster.workers[helper].send_signal(signal.SIGSTOP)  # it holds the pieces that it was sent
    wait_until(lambda: any(pieces.glob("data-*/pieces/*.made")), "a piece of the other worker", pause=0.002)
    cluster.workers[helper].kill()
    cluster.workers[helper].wait()
    said = run.end(seconds=LONG_SECONDS)
    assert "data: done on the cluster" in said and "check: done on the cluster" in said and "Traceback" not in said
    assert keys(problem.output) == keys(alone.output)
    assert Tracked(problem).states("data") == ["FINISHED"], "the stage went on"
    assert not any(pieces.iterdir())


def keys(output: Path) -> dict[str, str]:
    """Returns the digest of every committed stage by its key: several pools have stages of equal names."""
    marks = [json.loads(path.read_text()) for path in (output / "stages").glob("*.json")]
    return {mark["key"]: mark["digest"] for mark in marks}


def test_trials_side_by_side_and_a_worker_killed(
    make_problem: Callable[..., Problem], services: Services, cluster: Dask, tmp_path: Path
) -> None:
    problem = make_problem("dasktrials", services)
    words = ("tune", problem.dataset, "full", "tiny", "--trials", "2", "--no-final", "--dask", cluster.address)
    pool = ("--recbole_models", "BPR", "ItemKNN")
    run = start(problem, *words, *pool, more={"grpo.learning_rate": 1e-4})  # the search starts there
    wait_until(lambda: any(problem.output.glob("stages/.work/grpo-*")), "a trial", pause=0.01)
    cluster.kill_one_that_trains(problem.output)
    run.end(seconds=LONG_SECONDS)
    (group,) = Tracked(problem).runs("tags.group = 'tune'")
    assert group.data.metrics["trials"] == 2.0
    assert "resuming from checkpoint-" in cluster.said()
    table = Tracked(problem).client.download_artifacts(group.info.run_id, "trials.parquet", str(tmp_path))
    trials = pd.read_parquet(table)
    assert set(trials["state"]) <= {"complete", "pruned"} and (trials["state"] == "complete").any()
    assert trials["grpo.learning_rate"].nunique() == 2
    assert (trials["last_step"] > 0).all()  # what a worker reports reaches the study
    assert Tracked(problem).committed().count("recall-BPR") == 1


def test_a_deployment_runs_on_the_cluster(
    make_problem: Callable[..., Problem], services: Services, cluster: Dask
) -> None:
    problem, api = make_problem("daskpage", services), Api(services)
    run = api.start(problem, "recall", dask=cluster.address)
    assert api.end(run) == "COMPLETED"
    said = api.lines(run)
    assert "recall-BPR: running" in said  # the log of a worker is the log of the run
    assert set(digests(problem.output)) == {"split", "recall-BPR", "recall-ItemKNN"}


def test_a_cluster_that_cannot_be_used_is_one_line(
    make_problem: Callable[..., Problem], services: Services, cluster: Dask
) -> None:
    problem = make_problem("nodask", services)
    began = time.monotonic()
    said = problem.start("--dask", f"tcp://127.0.0.1:{free_port()}").end(1)
    assert "A Dask scheduler must answer there" in said and "Traceback" not in said
    assert time.monotonic() - began < 60  # 8 s of it are the waiting, the rest imports on a busy machine
    for worker in cluster.workers:
        worker.send_signal(signal.SIGTERM)
        worker.wait()
    said = problem.start("--dask", cluster.address).end(1)
    assert "must have a worker" in said
    assert not any((problem.output / "stages").glob("*.json"))
