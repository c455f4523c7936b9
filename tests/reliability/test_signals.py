"""Signals that ask a run to end: it ends as by Ctrl-C, whoever started it, and a second one ends it at once."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from softgrpo.flows.services.control import Services
from tests.reliability.conftest import order
from tests.reliability.runs import (
    RECALLERS,
    ROOT,
    Api,
    Problem,
    Tracked,
    descendants,
    digests,
    process_of,
    stages_run,
    until,
    wait_until,
)
from tests.support.warm import COMMAND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENDING = [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM]
PATIENCE_SECONDS = 30.0
LONG = {"sft.num_train_epochs": 3000}
AT_WORK = "stages/.staging/sft-*"
ON_TERMINAL = f"""
import fcntl, os, termios
terminal = os.open(os.environ["TERMINAL"], os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
os.dup2(terminal, 2)
{COMMAND}
"""
"""The command, in a process that has a terminal, to which its standard error goes."""


def states(problem: Problem) -> tuple[dict[str, str], list[str]]:
    """Returns what MLflow says of each run by its name, and Prefect of the flow runs; both have files in the output folder."""
    with sqlite3.connect(problem.output / "mlflow.db") as database:
        runs = dict(database.execute("select name, status from runs").fetchall())
    with sqlite3.connect(problem.output / "prefect" / "prefect.db") as database:
        return runs, [state for (state,) in database.execute("select state_type from flow_run").fetchall()]


def line_of(number: int) -> str:
    name = signal.Signals(number).name
    return f"softgrpo: ended by {name}. Finished stages are kept; the same command goes on from there."


def test_a_signal_ends_a_run_as_ctrl_c_does(make_problem: Callable[..., Problem]) -> None:
    """One run after another, each with a Prefect server of its own, which ends too; then the stages go on from a checkpoint."""
    problem = make_problem("signalled", own_prefect=True)
    for number in (signal.SIGQUIT, signal.SIGTERM):  # SIGHUP comes from a terminal, see below
        shutil.rmtree(problem.output / "stages" / ".work", ignore_errors=True)
        run = problem.start(stage="sft")
        run.freeze_at_checkpoint("sft")
        children = psutil.Process(run.process.pid).children(recursive=True)
        assert descendants(run.process.pid, "server_program.py"), "a Prefect server of its own"
        run.process.send_signal(number)
        run.go_on()
        said = run.end(128 + number, PATIENCE_SECONDS)
        assert said.splitlines()[-1] == line_of(number) and "Traceback" not in said
        assert psutil.wait_procs(children, timeout=PATIENCE_SECONDS)[1] == []
        runs, flow_runs = states(problem)
        assert runs["sft"] == "KILLED" and runs["data"] == "FINISHED" and "RUNNING" not in runs.values()
        assert set(flow_runs) == {"CRASHED"}
        assert set(digests(problem.output)) == set(until("check"))
        assert not any((problem.output / "stages" / ".staging").iterdir())
    assert "resuming from checkpoint-" in problem.run(stage="sft")


def test_a_signal_ends_a_run_without_prefect_and_mlflow(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("signalled-alone")
    for number in ENDING:
        run = problem.start(stage="standalone", more=LONG)
        wait_until(lambda: any(problem.output.glob(AT_WORK)), "sft is at work", pause=0.01)
        run.process.send_signal(number)
        said = run.end(128 + number, PATIENCE_SECONDS)
        assert line_of(number) in said.splitlines() and "Traceback" not in said
        assert not any((problem.output / "stages" / ".staging").iterdir())


def test_the_terminal_of_a_run_is_closed(make_problem: Callable[..., Problem]) -> None:
    """The system sends SIGHUP, and all that is written to the terminal fails from then on, the bar of the training first."""
    problem = make_problem("terminal", own_prefect=True)
    outside, inside = pty.openpty()
    run = problem.start(stage="sft", more=LONG, program=ON_TERMINAL, environment={"TERMINAL": os.ttyname(inside)})
    wait_until(lambda: _read(outside) and any(problem.output.glob(AT_WORK)), "sft is at work", pause=0.01)
    os.close(inside)
    os.close(outside)
    run.end(128 + signal.SIGHUP, PATIENCE_SECONDS)
    runs, flow_runs = states(problem)
    assert runs["sft"] == "KILLED" and flow_runs == ["CRASHED"]


def _read(terminal: int) -> bytes:
    """Reads what has come, so that whoever writes there need not wait."""
    return os.read(terminal, 65536)


def test_a_second_signal_ends_a_run_at_once(make_problem: Callable[..., Problem], services: Services) -> None:
    """MLflow does not answer, and the first signal lets the run wait for it to say how it ended."""
    problem = make_problem("twice", services)
    problem.run(stage="check")
    run = problem.start(stage="sft", more=LONG)
    wait_until(lambda: any(problem.output.glob(AT_WORK)), "sft is at work", pause=0.01)
    services.supervisor("stop", "mlflow")
    try:
        for first, second in ((signal.SIGTERM, signal.SIGINT),):
            run.process.send_signal(first)
            time.sleep(3.0)
            assert run.process.poll() is None
            begun = time.monotonic()
            run.process.send_signal(second)
            assert run.process.wait(PATIENCE_SECONDS) == -second
            assert time.monotonic() - begun < 2.0
    finally:
        services.supervisor("start", "mlflow")
        order("start", services.output)  # waits until it answers
    problem.run(stage="check")
    assert Tracked(problem).states("sft") == ["KILLED"]  # which this run has told


def test_a_signal_ends_a_run_of_the_worker(make_problem: Callable[..., Problem], services: Services) -> None:
    problem, api = make_problem("worker-signalled", services), Api(services)
    for number in ENDING:
        flow_run, process = start_long(problem, api)
        process.send_signal(number)
        assert api.end(flow_run, PATIENCE_SECONDS) == "CRASHED"
        assert psutil.wait_procs([process], timeout=PATIENCE_SECONDS)[1] == []
        assert not any((problem.output / "stages" / ".staging").iterdir())
    assert Tracked(problem).states("sft") == ["KILLED"] * 3 and Tracked(problem).states("pipeline") == ["KILLED"] * 3


def start_long(problem: Problem, api: Api) -> tuple[str, psutil.Process]:
    """Starts a run of a deployment, and returns it and its process when SFT is at work, for minutes."""
    flow_run = api.start(problem, "sft", overrides=problem.settings(LONG))
    return at_work(problem, lambda: flow_run)


def at_work(problem: Problem, name: Callable[[], str]) -> tuple[str, psutil.Process]:
    wait_until(lambda: any(problem.output.glob(AT_WORK)), "sft is at work", pause=0.01)
    process = process_of(flow_run := name())
    assert process is not None
    return flow_run, process


def without_settings(line: str) -> str:
    """Returns a line of `make stop` with the data set alone for a run's name, which also has its size and settings."""
    return re.sub(r"^(Run \w+) tiny, .* (was ended|was started|had been)", r"\1 \2", line)


def test_the_services_are_stopped_during_runs(make_problem: Callable[..., Problem], services: Services) -> None:
    """The worker's run ends; that of a command waits for the servers and goes on when they are there again.

    Whoever watches the worker's run sees how it ended, and a run that was killed before is no longer said to be at work.
    """
    problem, api = make_problem("stopped", services), Api(services)
    other = replace(make_problem("waiting", services), output=problem.output.with_name("other"))
    command = other.start(stage="sft", frozen_at="stages/check-*.json")
    command.frozen()
    watcher = start_watched(problem, services)
    flow_run, process = at_work(problem, lambda: api.latest(problem))
    lost = replace(make_problem("lost", services), output=problem.output.with_name("lost"))
    kill_at_work(lost)
    begun = time.monotonic()
    said = order("stop", services.output).splitlines()
    took = time.monotonic() - begun
    assert not process.is_running()
    watched, _ = watcher.communicate(timeout=PATIENCE_SECONDS)
    assert watcher.returncode == 1 and "Traceback" not in watched, watched
    assert watched.splitlines()[-1] == "Flow run finished in state 'Cancelled'."
    command.go_on()
    place = {"PREFECT_PORT": str(services.prefect_port), "MLFLOW_PORT": str(services.mlflow_port)}
    order("start", services.output, {**place, "PREFECT_WORKER_QUERY_SECONDS": "2", "OMP_NUM_THREADS": "1"})
    ended = "Run stopped was ended (Cancelled). The same run goes on from its finished stages."
    left = "Run waiting was started by a command and has lost its servers: end it with Ctrl-C if it is still at work."
    killed = "Run lost had been killed; it is marked as Crashed. The same run goes on from its finished stages."
    assert sorted(map(without_settings, said[:-1])) == sorted([ended, left, killed])
    assert said[-1] == "The services have ended."
    assert took < 20.0
    assert api.state(flow_run) == "CANCELLED"
    assert Tracked(problem).states("sft") == ["KILLED"] and Tracked(problem).states("pipeline") == ["KILLED"]
    assert stages_run(command.end()) == until("sft")
    assert api.state(api.latest(other)) == "COMPLETED"
    assert api.state(api.latest(lost)) == "CRASHED"


def test_the_services_are_stopped_although_a_run_heeds_nothing(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    """Its process stands still, so that neither Prefect nor the worker can end it as they ought to."""
    problem, api = make_problem("heedless", services), Api(services)
    flow_run, process = start_long(problem, api)
    process.suspend()
    begun = time.monotonic()
    said = order("stop", services.output).splitlines()
    took = time.monotonic() - begun
    place = {"PREFECT_PORT": str(services.prefect_port), "MLFLOW_PORT": str(services.mlflow_port)}
    order("start", services.output, {**place, "PREFECT_WORKER_QUERY_SECONDS": "2", "OMP_NUM_THREADS": "1"})
    assert took < 20.0 and not process.is_running()
    assert without_settings(said[0]) == (
        "Run heedless was ended (Cancelled). The same run goes on from its finished stages."
    )
    assert api.state(flow_run) == "CANCELLED"


def test_a_run_that_was_killed_is_crashed_when_the_next_one_begins(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    problem, api = make_problem("killed-then-told", services), Api(services)
    kill_at_work(problem)
    flow_run = api.latest(problem)
    assert api.state(flow_run) == "RUNNING"  # nobody was left to say otherwise
    problem.run(stage="check")
    assert api.state(flow_run) == "CRASHED" and api.message(flow_run).startswith("The process of this run was killed.")
    assert api.state(api.latest(problem)) == "COMPLETED"


def kill_at_work(problem: Problem) -> None:
    """Kills a run of a command with -9 when SFT is at work."""
    run = problem.start(stage="sft", more=LONG)
    wait_until(lambda: any(problem.output.glob(AT_WORK)), "sft is at work", pause=0.01)
    run.process.kill()
    run.process.wait(PATIENCE_SECONDS)


def start_watched(problem: Problem, services: Services) -> subprocess.Popen[str]:
    """Starts a run of a deployment as a user does who watches it."""
    parameters = {
        "dataset": problem.dataset,
        "recallers": RECALLERS,
        "overrides": problem.settings(LONG),
        "output": str(problem.output),
    }
    words = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    command = [str(Path(sys.executable).parent / "prefect"), "deployment", "run", "softgrpo/sft", *words, "--watch"]
    environment = {**os.environ, **services.addresses, "COLUMNS": "10000"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
