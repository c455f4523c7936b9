"""The network between a run and MLflow's server is cut in an upload: a real one, between two network namespaces of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import requests

from tests.reliability.runs import Problem, digests, stages_run, wait_until
from tests.reliability.test_surroundings import TINY_NODES, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE, THERE = "10.213.77.1", "10.213.77.2"
UPLOAD_BYTES = 40_000_000
"""Of one file: far more than buffers of sockets and all other requests hold."""
BEGUN_BYTES = 2_000_000
CUT_SECONDS = 10.0
DIRECT = {"http": ""}
LARGE = f'fakes.before["sft"] = lambda context: (context.out / "weights").write_bytes(bytes({UPLOAD_BYTES}))'


@dataclass(frozen=True)
class Link:
    """A network of two: this machine's processes, and those of a namespace.

    Attributes:
        name: Of the namespace; it ends the names of both interfaces.
    """

    name: str

    def make(self) -> None:
        """Makes namespace and interfaces, or skips the test where that is not allowed."""
        if shutil.which("ip") is None or subprocess.run(["ip", "netns", "add", self.name], check=False).returncode:
            pytest.skip("network namespaces need root and Debian's package iproute2")
        _ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.name)
        _ip("address", "add", f"{HERE}/30", "dev", self.here)
        _ip("link", "set", self.here, "up")
        _ip("-n", self.name, "address", "add", f"{THERE}/30", "dev", self.there)
        _ip("-n", self.name, "link", "set", "lo", "up")
        self.turn("up")

    @property
    def here(self) -> str:
        """Name of the interface on this side."""
        return f"h{self.name}"

    @property
    def there(self) -> str:
        """Name of the interface in the namespace."""
        return f"t{self.name}"

    def turn(self, state: str) -> None:
        """Turns the other side up or down; what is sent meanwhile is lost without a word."""
        _ip("-n", self.name, "link", "set", self.there, state)

    def sent(self) -> int:
        """Returns how many bytes have been sent from here."""
        return int(Path(f"/sys/class/net/{self.here}/statistics/tx_bytes").read_text())


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def link() -> Iterator[Link]:
    """A network of two, which goes with its namespace."""
    link = Link(f"sg{os.getpid()}")
    link.make()
    yield link
    _ip("netns", "delete", link.name)


@pytest.fixture
def server(link: Link, tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of an MLflow server in the namespace, and its process."""
    database = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["--host", THERE, "--port", "5000", "--workers", "1", "--backend-store-uri", database]
    words += ["--artifacts-destination", str(tmp_path / "mlartifacts")]
    command = ["ip", "netns", "exec", link.name, sys.executable, "-m", "mlflow", "server", *words]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://{THERE}:5000"

    def answers() -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"{address}/health", timeout=5, proxies=DIRECT).ok
        return False

    wait_until(answers, "MLflow's server answers", 240)
    yield address, process
    for each in (*process.children(recursive=True), process):
        each.kill()
    process.wait()


def test_the_network_is_gone_for_a_while_in_an_upload(
    make_problem: Callable[..., Problem], link: Link, server: tuple[str, psutil.Process]
) -> None:
    """The server stands still until the cut, so that the upload cannot end before it."""
    problem, (address, process) = make_problem("unplugged"), server
    environment = {"MLFLOW_TRACKING_URI": address, "NO_PROXY": THERE, "no_proxy": THERE}
    before = link.sent()
    run = start(problem, environment=environment, after=LARGE)
    wait_until(lambda: link.sent() > before + BEGUN_BYTES, "the upload has begun", pause=0.0005)
    servers = [process, *process.children(recursive=True)]
    for each in servers:
        each.suspend()
    link.turn("down")
    for each in servers:
        each.resume()
    sent = link.sent() - before
    assert BEGUN_BYTES < sent < UPLOAD_BYTES
    with pytest.raises(requests.RequestException):
        requests.get(f"{address}/health", timeout=CUT_SECONDS, proxies=DIRECT)
    assert run.process.poll() is None
    link.turn("up")
    output = run.end()
    assert stages_run(output) == list(TINY_NODES) and "Traceback" not in output
    elsewhere = replace(problem, output=problem.output.with_name("elsewhere"))
    assert stages_run(start(elsewhere, environment=environment, after=LARGE).end()) == []  # what was uploaded is whole
    assert digests(elsewhere.output) == digests(problem.output)
