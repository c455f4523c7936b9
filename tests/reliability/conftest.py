"""Real servers on loopback for all these tests, and problems to run on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softgrpo.flows.services.control import Services, find_services
from tests.conftest import PrefectServer
from tests.reliability.runs import ROOT, Problem, free_port, write_dataset, write_model
from tests.support.warm import COMMAND, run_warm


def order(word: str, output: Path, environment: dict[str, str] | None = None) -> str:
    """Gives an order to `python -m softgrpo.flows.services.control` and returns what it says."""
    code = COMMAND.replace("softgrpo.flows.cli", "softgrpo.flows.services.control")
    done = run_warm([word, "--output", str(output)], ROOT, {**os.environ, **(environment or {})}, code)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_shell(script: str, output: Path, environment: dict[str, str] | None = None) -> str:
    """Runs lines of a document in a bash that knows no command of this project, and returns what they print.

    Args:
        script: The lines.
        output: The output folder that `make` is told by the environment.
        environment: Further variables.
    """
    venv = {"MAKEFLAGS": f"-o {sys.prefix}/.installed -- VENV={sys.prefix}", "PATH": os.defpath}
    variables = {**os.environ, **venv, "OUTPUT": str(output), **(environment or {})}
    done = subprocess.run(["bash", "-ec", script], cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[Services]:
    """Prefect's server, MLflow's server, a worker and the deployments."""
    output = tmp_path_factory.mktemp("services")
    prefect_server.copy_database(output / "prefect")
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    in_shell("make services", output, {**ports, "PREFECT_WORKER_QUERY_SECONDS": "2", "OMP_NUM_THREADS": "1"})
    in_shell("make deploy", output)
    yield find_services(output)
    in_shell("make stop", output)


@pytest.fixture
def postgres() -> Iterator[str]:
    """A Postgres server of the Debian package on loopback, with an empty database for each of the two servers."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("Debian's package postgresql is not installed: apt-get install postgresql")
    tools, port = found[-1].parent, str(free_port())
    as_user = []
    with tempfile.TemporaryDirectory() as folder:  # tests' own folders are closed to other users
        if os.geteuid() == 0:  # Postgres refuses to run as root; the package has made a user for it
            shutil.chown(folder, "postgres", "postgres")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

        def do(tool: str, *words: str) -> None:
            command = [*as_user, str(tools / tool), *words]
            done = subprocess.run(command, cwd="/", stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == 0, done.stderr

        data, options = f"{folder}/data", f"-h 127.0.0.1 -p {port} -k {folder}"
        do("initdb", "-D", data, "-U", "softgrpo", "--auth=trust", "--no-sync")
        do("pg_ctl", "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start")
        for name in ("prefect", "mlflow"):
            do("createdb", "-h", "127.0.0.1", "-p", port, "-U", "softgrpo", name)
        yield f"softgrpo@127.0.0.1:{port}"
        do("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small language model."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture
def make_problem(tmp_path: Path, model: Path, prefect_address: str) -> Callable[..., Problem]:
    """Makes a problem of its own for a test."""

    def make(name: str, services: Services | None = None, *, own_prefect: bool = False) -> Problem:
        write_dataset(tmp_path / "data", name)
        address = None if own_prefect else prefect_address
        return Problem(name, tmp_path / "data", model, tmp_path / "output", services, address)

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
