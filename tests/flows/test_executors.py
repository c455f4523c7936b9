"""Recallers trained at once, each in a process of its own; on tiny stages. A Dask cluster is in tests/reliability."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, RecallerError, StoreError
from softgrpo.pipeline.run import RunResult
from softgrpo.pipeline.store import LocalStore
from softgrpo.stages.contract import Node
from softgrpo.tasks.running.isolation import Isolation
from softgrpo.tasks.servers.addresses import check_workers
from tests.reliability.runs import free_port
from tests.support.fake_stages import FakeStages
from tests.support.isolated_stages import recaller, seen, waiting

Go = Callable[..., tuple[RunResult, list[str]]]


def plan(fakes: FakeStages, *variants: str) -> tuple[Node, ...]:
    """Returns split, recallers and sft; only the recallers can run in another process."""
    split, _, _, sft, _ = fakes.nodes()
    recallers = [recaller(variant) for variant in variants]
    return (split, *recallers, Node("sft", sft.stage, "", tuple(node.name for node in recallers)))


@pytest.fixture
def go(output: Path) -> Go:
    """Runs a plan once; gives the result and the stages that were called in this process."""
    from prefect import flow

    from softgrpo.flows.pipeline import execute
    from softgrpo.tasks.executors import open_executor

    fakes = FakeStages()

    @flow(name="trial")
    def trial(
        variants: tuple[str, ...], config: ExperimentConfig, parallel: int | None, force: tuple[str, ...], where: Path
    ) -> RunResult:
        with open_executor(parallel) as executor:
            return execute(plan(fakes, *variants), config, force, where, executor=executor)

    def run(
        *variants: str,
        config: ExperimentConfig | None = None,
        parallel: int | None = 2,
        force: tuple[str, ...] = (),
        where: Path | None = None,
    ) -> tuple[RunResult, list[str]]:
        fakes.calls.clear()
        result = trial(variants, config or ExperimentConfig(), parallel, force, where or output)
        return result, list(fakes.calls)

    return run


def states(output: Path) -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("softgrpo/ml-100k")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return {run.data.tags.get("node", "pipeline"): run.info.status for run in found}


def digests(output: Path) -> dict[str, str]:
    store = LocalStore(output / "stages")
    found = [store.find(path.stem) for path in (output / "stages").glob("*.json")]
    return {mark.key: mark.digest for mark in found if mark is not None}


def test_two_are_trained_at_once_and_the_third_after_them(
    go: Go, output: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = waiting(A=["B"], B=["A"])
    result, calls = go(
        "A", "B", "C", config=meeting
    )  # A and B wait for each other: one after the other they would not end
    assert calls == ["split", "sft"]
    assert result.reused == () and list(result.folders) == ["split", "recall-A", "recall-B", "recall-C", "sft"]
    found = seen(output / "stages")
    assert len({os.getpid(), *(note["pid"] for note in found.values())}) == 4
    assert states(output) == dict.fromkeys(["pipeline", *result.folders], "FINISHED")
    alone = output / "alone"
    alone.mkdir()
    shutil.copy(empty_database, alone / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it when a model is published
    go("A", "B", "C", parallel=1, where=alone)
    assert {note["pid"] for note in seen(alone / "stages").values()} == {os.getpid()}
    assert digests(alone) == digests(output)  # keys too: how many are trained at once is in none of them


def test_processes_are_started_only_for_two_or_more(go: Go, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go("A", "B")

    def start(_: Isolation) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(Isolation, "_start", start)
    result, calls = go("A", "B")
    assert calls == [] and result.reused == ("split", "recall-A", "recall-B", "sft")
    result, _ = go("A", "B", "C")  # one is left to train: all cores are for it
    assert "recall-C" not in result.reused and seen(output / "stages")["C"]["pid"] == os.getpid()


def test_a_gpu_is_shared_only_where_a_run_says_so(go: Go, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.tasks.executors.free_cores", lambda: 8)
    monkeypatch.setattr("softgrpo.tasks.executors.uses_gpu", lambda node, config: True)
    go("A", "B", parallel=None)
    assert {note["pid"] for note in seen(output / "stages").values()} == {os.getpid()}
    go("A", "B", parallel=2, force=("recall",))
    assert os.getpid() not in {note["pid"] for note in seen(output / "stages").values()}


def test_the_cores_are_shared_out(go: Go, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    go("A", "B", parallel=3)
    assert {note["threads"] for note in seen(output / "stages").values()} == {"4"}
    go("A", "B", "C", "D", parallel=3, force=("recall",))
    assert {note["threads"] for note in seen(output / "stages").values()} == {"2"}


def test_what_is_at_work_beside_an_error_is_finished_and_kept(go: Go, output: Path) -> None:
    with pytest.raises(RecallerError, match="the loss is NaN"):
        go("Refused", "B", config=waiting(B=["Refused"]))
    assert {name: state for name, state in states(output).items() if "recall" in name} == {
        "recall-Refused": "FAILED",
        "recall-B": "FINISHED",
    }
    assert states(output)["pipeline"] == "FAILED"
    assert sorted(key.rpartition("-")[0] for key in digests(output)) == ["recall-B", "split"]


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """A process that a shell starts in the background ignores SIGINT, and so would the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_ends_all_that_are_at_work(go: Go, output: Path) -> None:
    def interrupt() -> None:
        while len(seen(output / "stages")) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        go("A", "B", "C", config=waiting(A=["nobody"], B=["nobody"]))
    found = seen(output / "stages")
    assert sorted(found) == ["A", "B"]  # C did not begin in their place
    assert not any(psutil.pid_exists(note["pid"]) for note in found.values())
    assert states(output) == {"split": "FINISHED", "pipeline": "KILLED", "recall-A": "KILLED", "recall-B": "KILLED"}
    assert [key.rpartition("-")[0] for key in digests(output)] == ["split"]
    assert not any((output / "stages" / ".staging").iterdir())


@pytest.mark.parametrize(
    ("cores", "parallel", "recallers"), [(1, None, 1), (2, None, 1), (4, None, 2), (16, None, 8), (2, 5, 5), (8, 1, 1)]
)
def test_how_many_are_trained_at_once(
    cores: int, parallel: int | None, recallers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softgrpo.tasks.executors import SERIAL, ParallelExecutor, open_executor

    monkeypatch.setattr("softgrpo.tasks.executors.free_cores", lambda: cores)
    with open_executor(parallel) as executor:
        assert (executor.recallers_at_once, executor.pipelines_at_once) == (recallers, 1)
        if recallers == 1:
            assert executor is SERIAL
        else:
            assert isinstance(executor, ParallelExecutor) and executor.explicit == (parallel is not None)


def test_prefect_stores_the_name_of_an_executor_and_hands_on_the_same_one() -> None:
    from prefect import flow

    from softgrpo.tasks.executors import SERIAL, DaskExecutor, Executor, ParallelExecutor

    @flow(name="takes", validate_parameters=False)
    def takes(executor: Executor) -> int:
        return id(executor)

    for executor in (SERIAL, ParallelExecutor(2), DaskExecutor(object(), 2)):
        assert takes.serialize_parameters({"executor": executor}) == {"executor": f"<{type(executor).__name__}>"}
        assert takes(executor) == id(executor)  # pipelines of one flow share what was submitted to a cluster
        assert isinstance(
            pickle.loads(pickle.dumps(executor)), Executor
        )  # a task takes its flow's parameters to a worker


def test_wrong_hands_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "tcp://127.0.0.1:8786"
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for parallel, dask, rule in (
        (0, None, "At least one recaller"),
        (2, address, "Leave one out"),
        (None, address, "report to the same servers"),
    ):
        with pytest.raises(ConfigError, match=rule):
            check_workers(parallel, dask)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    with pytest.raises(ConfigError, match="without MLFLOW_TRACKING_URI"):
        check_workers(None, address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    check_workers(None, address)
    check_workers(None, None)


def test_a_scheduler_that_does_not_answer_is_one_readable_error(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import flow

    from softgrpo.tasks import executors

    monkeypatch.setattr(executors, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(executors, "check_workers", lambda parallel, dask: None)

    @flow(name="trial")
    def trial() -> None:
        with executors.open_executor(dask=f"tcp://127.0.0.1:{free_port()}"):
            pass

    with pytest.raises(StoreError, match="A Dask scheduler must answer there") as caught:
        trial()
    assert caught.value.code == "STORE-026"
