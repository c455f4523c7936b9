"""`kill -9`, Ctrl-C and Cancel in the middle of real runs: what was committed stays, what was not is made again."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from softgrpo.flows.services.control import Services
from tests.reliability.runs import (
    CHECKPOINT,
    NODES,
    Api,
    Command,
    Problem,
    Tracked,
    descendants,
    digests,
    has_checkpoint,
    process_of,
    stages_run,
    until,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

INSIDE = {
    "recall-BPR": "stages/.staging/recall-BPR-*",
    "data": "stages/.staging/data-*",
    "sft": CHECKPOINT.format("sft"),
    "grpo": CHECKPOINT.format("grpo"),
    "test": "stages/.staging/test-*",
}
"""What is there while a stage is at work and not yet committed; in the trainings, a checkpoint."""


def test_kill_9_inside_each_stage(make_problem: Callable[..., Problem], services: Services) -> None:
    """One run is killed inside recall; the next goes on and is killed inside data; and so on to the end."""
    problem = make_problem("killed", services)
    begun = 0
    for node, inside in INSIDE.items():
        run = problem.start()
        run.freeze_at(inside)
        assert node not in digests(problem.output), "it was committed before it could be stopped"
        run.kill()
        place = NODES.index(node)
        assert stages_run(run.said()) == list(NODES[begun : place + 1])  # the killed one again, then those behind it
        assert set(digests(problem.output)) == set(NODES[:place])
        assert Tracked(problem).committed() == sorted(NODES[:place])
        begun = place
    said = problem.run()
    assert stages_run(said) == ["test"]
    assert Tracked(problem).committed() == sorted(NODES)

    alone = replace(problem, output=problem.output.with_name("whole"), services=None)
    uninterrupted = alone.run()
    assert stages_run(uninterrupted) == list(NODES)
    assert digests(problem.output) == digests(alone.output)
    assert not any((problem.output / "stages" / ".work").iterdir())
    ended = [run.info.status for run in Tracked(problem).runs()]  # of killed runs later ones have said so
    assert set(ended) == {"FINISHED", "KILLED"}
    assert ended.count("KILLED") == 2 * len(INSIDE)  # the stage at work and its pipeline


def test_kill_9_in_a_training_goes_on_from_its_checkpoint(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    """Under a worker: the page shows Crashed, and the next run of the deployment goes on."""
    problem, api = make_problem("crashed", services), Api(services)
    first = api.start(problem, "sft")
    wait_until(lambda: has_checkpoint(problem.output, "sft"), "a checkpoint", pause=0.01)
    process = process_of(first)
    assert process is not None
    process.kill()
    assert api.end(first) == "CRASHED"
    assert Tracked(problem).states("sft") == ["RUNNING"]  # nobody was left to tell MLflow
    second = api.start(problem, "sft")
    assert api.end(second) == "COMPLETED"
    assert stages_run(api.lines(second)) == ["sft"]
    assert "resuming from checkpoint-" in api.lines(second)
    assert Tracked(problem).states("sft") == ["KILLED", "FINISHED"]  # which the second run has done
    assert Tracked(problem).states("pipeline")[-2:] == ["KILLED", "FINISHED"]


def test_a_stage_that_hangs_ends_with_an_error_and_goes_on_next_time(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    """It takes longer than it may; what cannot be interrupted is in tests/softgrpo/pipeline/test_time_limit.py."""
    problem = make_problem("hanging", services)
    problem.run(stage="check")
    longer = {"sft.num_train_epochs": 40, "train.evaluations": 20}
    run = problem.start(stage="sft", more={**longer, "limits.stage_hours": 0.008})
    run.freeze_at_checkpoint("sft")
    time.sleep(0.008 * 3600)  # its time passes on while it stands still
    run.go_on()
    said = run.end(1)
    assert said.splitlines()[-1].startswith("softgrpo: sft took longer than 0.008 hours. limits.stage_hours is")
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(run.process.pid, 0)  # nor is there any process that it started
    assert Tracked(problem).states("sft") == ["FAILED"] and Tracked(problem).states("pipeline")[-1] == "FAILED"
    assert not any((problem.output / "stages" / ".staging").iterdir())
    said = problem.run(stage="sft", more=longer)
    assert "resuming from checkpoint-" in said
    assert stages_run(said) == ["sft"]
    assert Tracked(problem).states("sft") == ["FAILED", "FINISHED"]


def test_kill_9_of_the_worker(make_problem: Callable[..., Problem], services: Services) -> None:
    problem, api = make_problem("orphan", services), Api(services)
    first = api.start(problem, "sft")
    wait_until(lambda: has_checkpoint(problem.output, "sft"), "a checkpoint", pause=0.01)
    pid = _pid_of_worker(services)
    psutil.Process(pid).kill()
    assert process_of(first) is not None
    assert api.end(first) == "COMPLETED"
    assert Tracked(problem).states("sft") == ["FINISHED"]
    again = wait_until(lambda: _pid_of_worker(services), "supervisord starts the worker again")
    assert again != pid
    second = api.start(problem, "sft")
    assert api.end(second) == "COMPLETED"
    assert stages_run(api.lines(second)) == []


def _pid_of_worker(services: Services) -> int:
    return int(services.supervisor("pid", "worker").stdout)


def test_cancel_from_the_page(make_problem: Callable[..., Problem], services: Services) -> None:
    problem, api = make_problem("cancelled", services), Api(services)
    first = api.start(problem, "sft")
    wait_until(lambda: has_checkpoint(problem.output, "sft"), "a checkpoint", pause=0.01)
    process = process_of(first)
    assert process is not None
    api.cancel(first)
    assert api.end(first) == "CANCELLED"
    psutil.wait_procs([process], timeout=30)
    assert not process.is_running()
    assert Tracked(problem).states("sft") == ["KILLED"]
    assert Tracked(problem).states("pipeline") == ["KILLED"]
    assert Tracked(problem).committed() == sorted(until("check"))
    assert not any((problem.output / "stages" / ".staging").iterdir())
    second = api.start(problem, "sft")
    assert api.end(second) == "COMPLETED"
    assert stages_run(api.lines(second)) == ["sft"]
    assert "resuming from checkpoint-" in api.lines(second)


def test_kill_9_of_the_command_alone_leaves_no_process_behind(make_problem: Callable[..., Problem]) -> None:
    """Without servers a run has a Prefect server of its own."""
    run = make_problem("alone", own_prefect=True).start(stage="recall")
    run.freeze_at("stages/split-*.json")
    children = psutil.Process(run.process.pid).children(recursive=True)
    assert descendants(run.process.pid, "server_program.py"), "a Prefect server of its own"
    run.process.kill()
    run.process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_ctrl_c_commits_nothing_and_says_so(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("interrupted", own_prefect=True)
    run = problem.start(stage="sft")
    run.freeze_at_checkpoint("sft")
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does, to the whole group
    run.go_on()
    said = run.end(130)
    assert "interrupted. Finished stages are kept" in said and "Traceback" not in said
    assert set(digests(problem.output)) == set(until("check"))
    assert not any((problem.output / "stages" / ".staging").iterdir())
    with sqlite3.connect(problem.output / "mlflow.db") as database:
        states = dict(database.execute("select name, status from runs").fetchall())
    assert states["sft"] == "KILLED" and states["data"] == "FINISHED"


def _trained(run: Command) -> list[psutil.Process]:
    """Waits until two recallers are being trained, and returns their processes."""

    def both() -> list[psutil.Process]:
        found = descendants(run.process.pid, "softgrpo.tasks.running.stage_process")
        return found if len(found) == 2 else []

    found: list[psutil.Process] = wait_until(both, "two recallers are trained at once", pause=0.01)
    return found


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_recallers_trained_at_once_end_with_their_run(
    end: signal.Signals, make_problem: Callable[..., Problem]
) -> None:
    problem = make_problem("together")
    more = {"recall.settings": {"BPR": {"epochs": 10_000, "stopping_step": 10_000}}}
    run = problem.start("--parallel", "2", stage="recall", more=more)
    trainings = _trained(run)
    run.process.send_signal(end)  # to the run alone, not to its group
    run.process.wait(timeout=60)
    _, alive = psutil.wait_procs(trainings, timeout=30)
    assert alive == []
    assert "recall-BPR" not in digests(problem.output)
    if end is not signal.SIGKILL:  # what the next run does is the same behind all three
        return
    said = problem.run("--parallel", "2", stage="recall")
    assert "recall-BPR" in stages_run(said)
    assert set(digests(problem.output)) == {"split", "recall-BPR", "recall-ItemKNN"}
