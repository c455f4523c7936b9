"""Prefect's server, MLflow's server and a worker on loopback: started, asked after, ended. `make services` and its kin.

supervisord (deployments/supervisord.conf) keeps the three alive. What is running is known by its socket, so that `stop` ends
exactly what `start` began, and two output folders have services of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import requests

from flows.environment import prepare
from softgrpo.errors import SoftGRPOError, StoreError
from tasks.database import DATABASE, make_database

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "deployments" / "supervisord.conf"
RECIPES = ROOT / "deployments" / "prefect.yaml"
PATIENCE_SECONDS = 120.0  # a first start makes two databases
PORTS = {"PREFECT_PORT": 4200, "MLFLOW_PORT": 5000}
POOL = "local"
MESSAGE_CHARACTERS = 500
PORTS_FILE = "ports.json"


@dataclass(frozen=True)
class Services:
    """Where the services of one output folder are.

    Attributes:
        output: The output folder; the servers keep their databases there unless the environment names others.
        prefect_port: Port of Prefect's server.
        mlflow_port: Port of MLflow's server.
    """

    output: Path
    prefect_port: int
    mlflow_port: int

    @property
    def folder(self) -> Path:
        """Folder of the services' logs."""
        return self.output / "services"

    @property
    def socket(self) -> Path:
        """supervisord's socket; a path in the output folder may be longer than a socket's may be."""
        name = hashlib.sha256(str(self.output).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"softgrpo-{os.getuid()}-{name}.sock"

    @property
    def addresses(self) -> dict[str, str]:
        """What a shell, a flow and a worker need to find the servers."""
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.prefect_port}/api",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.mlflow_port}",
        }

    def make(self, words: str) -> str:
        """Returns a command line of make that means these services."""
        there = "" if self.output == ROOT / "outputs" else f" OUTPUT={shlex.quote(str(self.output))}"
        return f"make {words}{there}"

    def environment(self) -> dict[str, str]:
        """Returns the environment that deployments/supervisord.conf and deployments/prefect.yaml are read in."""
        here = dict(os.environ)
        for name in self.addresses:  # the servers are the addresses' other end, and the worker gets its own
            here.pop(name, None)
        return {
            "PREFECT_HOME": str(self.output / "prefect"),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.output / DATABASE}",
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.output / "mlartifacts"),
            # in memory, the usual place, a restarted server would forget who holds a slot, and never give it to anybody else
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            **here,
            "PREFECT_SERVER_UI_API_URL": self.addresses["PREFECT_API_URL"],  # its page asks port 4200 otherwise
            "SOFTGRPO_OUTPUT": str(self.output),
            "SOFTGRPO_SERVICES": str(self.folder),
            "SOFTGRPO_SOCKET": str(self.socket),
            "SOFTGRPO_PYTHON": sys.executable,
            "SOFTGRPO_PREFECT_PORT": str(self.prefect_port),
            "SOFTGRPO_MLFLOW_PORT": str(self.mlflow_port),
            "SOFTGRPO_PREFECT_URL": self.addresses["PREFECT_API_URL"],
            "SOFTGRPO_MLFLOW_URL": self.addresses["MLFLOW_TRACKING_URI"],
        }

    def supervisor(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Gives an order to the running supervisord.

        Raises:
            StoreError: It says that it failed.
        """
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(CONFIGURATION), *words]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise StoreError(
                f"supervisorctl {' '.join(words)}: {(done.stdout + done.stderr).strip()}",
                "The services are ended and started through it",
                f"Look into {self.folder}",
            )
        return done

    def is_running(self) -> bool:
        """Whether supervisord answers at the socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def _check_free(port: int, setting: str) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise StoreError(
                f"port {port} of 127.0.0.1", "It must be free, and something answers there", f"Set {setting} to another"
            )


def _wait_healthy(services: Services) -> None:
    """Waits until both servers answer.

    Raises:
        StoreError: One does not within two minutes.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    for program, variable in (("prefect", "PREFECT_API_URL"), ("mlflow", "MLFLOW_TRACKING_URI")):
        address = f"{services.addresses[variable]}/health"
        while True:
            try:
                if requests.get(address, timeout=5).ok:
                    break
                said = "an error"
            except requests.RequestException:
                said = "no answer"
            if time.monotonic() > end:
                log = services.folder / f"{program}.log"
                raise StoreError(
                    f"{address}: {said} within {PATIENCE_SECONDS:g} s", "Both servers must answer", f"Look into {log}"
                )
            time.sleep(0.3)


def start(services: Services) -> str:
    """Starts what does not run yet, and waits until the servers answer and the worker has its pool.

    Returns:
        Where the pages are.

    Raises:
        StoreError: A port is taken, the folder cannot be written, or a server does not come up.
    """
    if not services.is_running():
        prepare(services.output)
        _check_free(services.prefect_port, "PREFECT_PORT")
        _check_free(services.mlflow_port, "MLFLOW_PORT")
        services.folder.mkdir(exist_ok=True)
        if "MLFLOW_BACKEND_STORE_URI" not in os.environ:
            make_database(services.output)
        ports = {"PREFECT_PORT": services.prefect_port, "MLFLOW_PORT": services.mlflow_port}
        (services.folder / PORTS_FILE).write_text(json.dumps(ports), encoding="utf-8")
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIGURATION)]
        subprocess.run(command, env=services.environment(), check=True)
    _wait_healthy(services)
    prefect(services, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    if "RUNNING" not in services.supervisor("status", "worker", check=False).stdout:
        services.supervisor("start", "worker")
    return (
        f"Prefect  http://127.0.0.1:{services.prefect_port}\nMLflow   {services.addresses['MLFLOW_TRACKING_URI']}\n"
        f'logs     {services.folder}\nFor a shell: eval "$({services.make("-s env")})"'
    )


def stop(services: Services) -> str:
    """Ends the services of one output folder and nothing else; returns when they have ended.

    Returns:
        That they have.

    Raises:
        StoreError: None is running.
    """
    _check_running(services)
    services.supervisor("stop", "worker", check=False)  # first, while the server can still hear how its runs end
    services.supervisor("shutdown")
    end = time.monotonic() + PATIENCE_SECONDS
    while services.is_running() and time.monotonic() < end:
        time.sleep(0.1)
    return "The services have ended."


def export_lines(services: Services) -> str:
    """Returns what a shell needs to find the commands, and the servers if they are running, as export lines."""
    lines = [f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"']
    if services.is_running():
        lines += [f"export {name}={shlex.quote(value)}" for name, value in services.addresses.items()]
    else:
        print(
            f"No services of '{services.output}' are running: {services.make('services')} starts them", file=sys.stderr
        )
    return "\n".join(lines)


def prefect(services: Services, *words: str) -> None:
    """Runs Prefect's own command against the server.

    Raises:
        StoreError: It fails.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    environment = services.environment() | services.addresses
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().rpartition("\n")[2]
        raise StoreError(
            f"prefect {' '.join(words)}: {said[:MESSAGE_CHARACTERS]}",
            "The server takes deployments from deployments/prefect.yaml",
            f"Look into {services.folder / 'prefect.log'}",
        )


def deploy(services: Services) -> str:
    """Registers the deployments and the limits that their runs keep.

    Returns:
        How to start one.

    Raises:
        StoreError: The services are not running, or the server refuses.
    """
    _check_running(services)
    prefect(services, "deploy", "--prefect-file", str(RECIPES), "--all")
    from tasks.gpu import make_limit  # Prefect takes seconds, which the other orders need not wait for

    make_limit(services.addresses["PREFECT_API_URL"])
    return (
        f'Registered. In a shell, after eval "$({services.make("-s env")})": '
        "prefect deployment run softgrpo/full -p dataset=ml-1m\n"
        f"http://127.0.0.1:{services.prefect_port}/deployments"
    )


def _check_running(services: Services) -> None:
    if not services.is_running():
        raise StoreError(
            f"the services of '{services.output}'",
            "They must be running, and they are not",
            f"Start them: {services.make('services')}",
        )


def _port(setting: str) -> int:
    said = os.environ.get(setting) or str(PORTS[setting])
    if not (said.isdecimal() and 0 < int(said) < 65536):
        raise StoreError(f"{setting}={said}", "A port is a number from 1 to 65535", f"Correct or unset {setting}")
    return int(said)


def find_services(output: Path) -> Services:
    """Returns the services of an output folder: on the ports where they run, else on those that the environment names.

    Raises:
        StoreError: A port is no number.
    """
    services = Services(output.resolve(), _port("PREFECT_PORT"), _port("MLFLOW_PORT"))
    if services.is_running():
        ports = json.loads((services.folder / PORTS_FILE).read_text(encoding="utf-8"))
        return Services(services.output, ports["PREFECT_PORT"], ports["MLFLOW_PORT"])
    return services


ORDERS = {"start": start, "stop": stop, "deploy": deploy, "env": export_lines}


def main(words: list[str] | None = None) -> int:
    """Runs `python -m flows.services ORDER`."""
    parser = argparse.ArgumentParser(prog="flows.services", description=__doc__)
    parser.add_argument("order", choices=("start", "stop", "deploy", "env"))
    parser.add_argument("--output", type=Path, default=Path("outputs"), metavar="FOLDER", help="the output folder")
    arguments = parser.parse_args(words)
    try:
        services = find_services(arguments.output)
        print(ORDERS[arguments.order](services))
    except SoftGRPOError as error:
        print(f"softgrpo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
