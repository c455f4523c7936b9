"""MLflow runs whose process was killed: marked by a later run of the same output folder, and only those."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.tracking.connection import open_tracking
from softgrpo.tasks.tracking.liveness import LivenessLocks
from softgrpo.tasks.tracking.runs import Runs

WORKER = """
import sys, time
from pathlib import Path
from tests.tasks.tracking.test_lost_runs import open_runs
with open_runs(Path(sys.argv[1]), sys.argv[2]).recorded("sft", {}) as run_id:
    print(run_id, flush=True)
    time.sleep(600)  # it is killed long before, on a busy machine too
"""


def open_runs(output: Path, locks: str = "stages/.alive") -> Runs:
    return Runs(open_tracking(output, "trial", LocalStore(output / "stages")), LivenessLocks(output / locks))


@contextmanager
def working(output: Path, locks: str = "stages/.alive") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Gives the MLflow run that another process works on, and that process."""
    command = [sys.executable, "-c", WORKER, str(output), locks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_a_run_whose_process_was_killed_is_marked_and_others_are_not(output: Path) -> None:
    runs = open_runs(output)
    client = runs.tracking.client

    def status(run_id: str) -> str:
        return str(client.get_run(run_id).info.status)

    with working(output) as (killed, process):
        process.kill()
        process.wait()
        with working(output) as (alive, _), working(output, "elsewhere") as (of_another_folder, other):
            other.kill()
            other.wait()
            unsigned = client.create_run(runs.tracking.experiment_id).info.run_id
            assert status(killed) == "RUNNING"  # nobody was left to say otherwise
            with runs.recorded("mine", {}) as mine:
                runs.end_lost()
                assert status(killed) == "KILLED"
                assert [status(run) for run in (alive, of_another_folder, unsigned, mine)] == ["RUNNING"] * 4
            runs.end_lost()
            assert status(mine) == "FINISHED"
        runs.end_lost()
        assert status(alive) == "KILLED"
    # what ended well leaves nothing behind, nor what was marked
    assert list((output / "stages/.alive").iterdir()) == []


def test_a_run_that_is_continued_has_a_new_lock(output: Path) -> None:
    runs = open_runs(output)
    with working(output) as (killed, process):
        process.kill()
        process.wait()
        with runs.continued(killed):
            runs.end_lost()
            assert runs.tracking.client.get_run(killed).info.status == "RUNNING"
        assert runs.tracking.client.get_run(killed).info.status == "FINISHED"
