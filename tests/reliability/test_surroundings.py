"""What a machine does to a run: it stands still, has no memory, files or clock left, or loses its network; on tiny stages."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from softgrpo.flows.services.control import Services
from tests.reliability.runs import (
    Api,
    Command,
    Problem,
    Tracked,
    descendants,
    digests,
    fill,
    stages_run,
    wait_until,
)
from tests.support.fake_stages import NODES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TINY_NODES = NODES[:-1]
TINY = """
import os, sys
from pathlib import Path
{before}
from softgrpo.flows.runtime.session import begin_prefect
begin_prefect(Path({output!r}))
import softgrpo.flows.start, softgrpo.flows.pipeline
from tests.support.fake_stages import FakeStages
fakes = FakeStages()
fakes.before["sft"] = lambda context: (context.out / "weights").write_bytes(bytes(2_000_000))
for module in (softgrpo.flows.start, softgrpo.flows.pipeline):
    module.plan = lambda config, until="test": fakes.nodes()[:-1]
{after}
from softgrpo.flows.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command, in a process whose stages are tiny; that of the policy writes 2 MB."""
FROZEN = """
_replace = os.replace
def _replace_and_freeze(source, target, **options):
    _replace(source, target, **options)
    if Path(target).match("sft-*.json"):
        os.replace = _replace
        os.kill(os.getpid(), 19)
os.replace = _replace_and_freeze
"""
CLOCK = """
import time
ahead = [0]
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + ahead[0]
time.time_ns = lambda: _time_ns() + ahead[0] * 10**9
"""
"""A clock that can be set."""
FILES = 64
DAY_SECONDS = 86_400
STOPPED_SECONDS = 8.0
"""Longer than a server keeps a connection open that nobody uses, which is five seconds."""
AT_ONCE = 10
FAKE_TIME = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "faketime" / "libfaketime.so.1"
FAKE_TIME_FAULT = "OSError: [Errno 22] Invalid argument"
"""`time.sleep` ends so now and then under the library that fakes the clock, in any program."""


def start(
    problem: Problem, *, before: str = "", after: str = "", environment: Mapping[str, str] | None = None, **more: Any
) -> Command:
    """Starts a run with tiny stages."""
    program = TINY.format(output=str(problem.output), before=before, after=after)
    return problem.start(stage="sft", program=program, environment=environment, more=more)


def test_a_run_stands_still_for_a_while(make_problem: Callable[..., Problem], services: Services) -> None:
    """As when a laptop sleeps, or a machine that is short of memory swaps."""
    problem, api = make_problem("stopped-and-continued", services), Api(services)
    run = start(problem, after=FROZEN)
    run.frozen()
    time.sleep(STOPPED_SECONDS)
    run.go_on()
    said = run.end()
    assert stages_run(said) == list(TINY_NODES)
    assert [line for line in said.splitlines() if "rror" in line or "Retrying" in line] == []
    assert Tracked(problem).committed() == sorted(TINY_NODES)
    assert api.state(api.latest(problem)) == "COMPLETED"


def test_the_system_kills_the_process_of_a_stage(make_problem: Callable[..., Problem]) -> None:
    """As it does where memory is short: it takes the largest process, which is that of a training."""
    problem = make_problem("killed-for-memory")
    long = {"recall.settings": {"BPR": {"epochs": 10_000, "stopping_step": 10_000}}}
    run = problem.start("--parallel", "2", stage="recall", more=long)
    wait_until(lambda: any(problem.output.glob("stages/recall-ItemKNN-*.json")), "the other is done", pause=0.01)
    (training,) = descendants(run.process.pid, "softgrpo.tasks.running.stage_process")
    training.kill()
    said = run.end(1)
    last = said.splitlines()[-1]
    assert last.startswith("softgrpo: recall-BPR: its process ended with code -9. ") and "memory is short" in last
    assert "Traceback" not in said
    assert set(digests(problem.output)) == {"split", "recall-ItemKNN"}
    uri = f"sqlite:///{problem.output / 'mlflow.db'}"
    assert Tracked(problem, uri).states("recall-BPR") == ["FAILED"]
    assert stages_run(problem.run("--parallel", "2", stage="recall")) == ["recall-BPR"]


def test_a_run_may_open_few_files(make_problem: Callable[..., Problem]) -> None:
    few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))"
    problem = make_problem("few-files", own_prefect=True)
    said = start(problem, before=few).end()
    assert stages_run(said) == list(TINY_NODES)
    assert set(digests(problem.output)) == set(TINY_NODES)


def test_the_clock_jumps_forward_by_a_day_during_a_run(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    problem = make_problem("jump", services)
    jump = f'fakes.before["recall"] = lambda context: ahead.__setitem__(0, {DAY_SECONDS})'
    said = start(problem, before=CLOCK, after=jump).end()
    assert stages_run(said) == list(TINY_NODES)
    assert Tracked(problem).committed() == sorted(TINY_NODES)
    assert Api(services).state(Api(services).latest(problem)) == "COMPLETED"
    (split,), (sft,) = (Tracked(problem).runs(f"tags.node = '{node}'") for node in ("split", "sft"))
    assert sft.info.end_time - split.info.end_time > DAY_SECONDS * 1000  # so it has jumped
    assert stages_run(start(problem).end()) == []


def test_the_clock_of_a_worker_is_an_hour_ahead(
    make_problem: Callable[..., Problem], services: Services, tmp_path: Path
) -> None:
    """A worker of another machine takes a run, and this machine's goes on from what that one has made."""
    problem, api = make_problem("other-clock", services), Api(services)
    if not FAKE_TIME.is_file():
        pytest.skip("Debian's package libfaketime is not installed: apt-get install libfaketime")
    services.supervisor("stop", "worker")
    environment = {"LD_PRELOAD": str(FAKE_TIME), "FAKETIME": "+1h", "DONT_FAKE_MONOTONIC": "1"}
    variables = services.environment() | services.addresses | environment | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--type", "process"]
    with (tmp_path / "worker.log").open("w") as log:
        worker = subprocess.Popen([*command, "--name", "elsewhere"], env=variables, stdout=log, stderr=log)
    try:
        run = api.start(problem, until="recall")
        if api.end(run) == "FAILED" and FAKE_TIME_FAULT in api.lines(run):
            run = api.start(problem, until="recall")
        assert api.end(run) == "COMPLETED", api.lines(run)
    finally:
        worker.terminate()
        worker.wait(60)
        services.supervisor("start", "worker")
    (made,) = Tracked(problem).runs("tags.node = 'recall-BPR'")
    assert made.info.end_time / 1000 - time.time() > 1800
    assert stages_run(problem.run(stage="recall")) == []


def test_the_folder_for_temporary_files_is_full(make_problem: Callable[..., Problem], small_disk: Path) -> None:
    """After Python has chosen it for this process: before, Python would take another one."""
    problem = make_problem("full-tmp", own_prefect=True)
    fill(small_disk)
    run = start(problem, before=f"import tempfile; tempfile.tempdir = {str(small_disk)!r}")
    said = run.end(1)
    last = said.splitlines()[-1]
    assert last.startswith("softgrpo: no space is left on the disk") and str(small_disk) in last
    assert "Traceback" not in said
    assert stages_run(start(problem).end()) == list(TINY_NODES)


def test_two_output_folders_share_a_server_of_mlflow(make_problem: Callable[..., Problem], services: Services) -> None:
    """Two runs at once, which do not see each other's locks: both make what they need, and what they make is the same."""
    problem = make_problem("two-folders", services)
    folders = [replace(problem, output=problem.output.with_name(name)) for name in ("one", "two")]
    both = [start(each) for each in folders]
    for run in both:
        run.end()
    assert digests(folders[0].output) == digests(folders[1].output)
    assert set(Tracked(problem).committed()) == set(TINY_NODES)
    assert set(Tracked(problem).states("pipeline")) == {"FINISHED"}
    third = replace(problem, output=problem.output.with_name("three"))
    assert stages_run(start(third).end()) == []
    assert digests(third.output) == digests(folders[0].output)


def test_ten_runs_at_once_in_one_folder(make_problem: Callable[..., Problem]) -> None:
    """None finds anything stored, and all write into one SQLite file of MLflow."""
    problem = make_problem("ten")
    runs = [start(problem, seed=seed) for seed in range(AT_ONCE)]
    for run in runs:
        assert "Traceback" not in run.end()
    tracked = Tracked(problem, f"sqlite:///{problem.output / 'mlflow.db'}")
    assert tracked.states("pipeline") == ["FINISHED"] * AT_ONCE
    assert tracked.committed() == sorted([*TINY_NODES] * AT_ONCE)
    assert len(list((problem.output / "stages").glob("sft-*.json"))) == AT_ONCE


class CuttingProxy:
    """Passes on what comes for a server, and cuts the first connection that uploads a file in the middle of it.

    Args:
        address: Of the server.
    """

    UPLOAD = b"PUT /api/2.0/mlflow-artifacts/artifacts/"
    CUT_BYTES = 1_000_000

    def __init__(self, address: str) -> None:
        there = urlsplit(address)
        self._server = (there.hostname, there.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:  # closed
                return
            there = socket.create_connection(self._server)
            threading.Thread(target=self._pass_on, args=(here, there, True), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(there, here, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        uploaded = -1
        with suppress(OSError):  # the other direction has been cut, or an end has closed
            while data := source.recv(65536):
                if to_server and data.startswith(self.UPLOAD):
                    uploaded = 0
                if uploaded >= 0:
                    uploaded += len(data)
                if uploaded > self.CUT_BYTES and not self.cuts:
                    self.cuts += 1
                    break
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()


def test_the_network_is_cut_in_an_upload(make_problem: Callable[..., Problem], services: Services) -> None:
    problem = make_problem("cut", services)
    proxy = CuttingProxy(services.addresses["MLFLOW_TRACKING_URI"])
    try:
        said = start(problem, environment={"MLFLOW_TRACKING_URI": proxy.address}).end()
    finally:
        proxy.close()
    assert proxy.cuts == 1
    assert stages_run(said) == list(TINY_NODES)
    assert "Traceback" not in said
    elsewhere = replace(problem, output=problem.output.with_name("elsewhere"))
    assert stages_run(start(elsewhere).end()) == []  # what was uploaded is whole
    assert digests(elsewhere.output) == digests(problem.output)
