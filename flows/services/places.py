"""Where the services of one output folder are: their ports, addresses, environment, and whether they run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softgrpo.common.paths import ROOT
from softgrpo.data.locate import DATA_VARIABLE
from softgrpo.errors import StoreError
from softgrpo.flows.runtime.hosts import LOOPBACK, SETTING, elsewhere, here, is_loopback, mlflow_guards, names_of
from softgrpo.flows.services.password import FILE, client_variables, server_variables
from softgrpo.tasks.servers.addresses import make_line
from softgrpo.tasks.servers.database import DATABASE

CONFIGURATION = ROOT / "deployments" / "supervisord.conf"
PORTS = {"PREFECT_PORT": 4200, "MLFLOW_PORT": 5000}
PLACE_FILE = "ports.json"


@dataclass(frozen=True)
class Services:
    """Where the services of one output folder are.

    Attributes:
        output: The output folder; the servers keep their databases there unless the environment names others.
        prefect_port: Port of Prefect's server.
        mlflow_port: Port of MLflow's server.
        host: What both are bound to: an IPv4 address or a name of this machine; 0.0.0.0 is every address.
    """

    output: Path
    prefect_port: int
    mlflow_port: int
    host: str = LOOPBACK

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
        """What a shell, a flow and a worker of this machine need to find the servers."""
        return self._addresses(here(self.host))

    @property
    def addresses_elsewhere(self) -> dict[str, str]:
        """The addresses for other machines, where loopback would lead to nothing."""
        return self._addresses(elsewhere(self.host))

    def _addresses(self, host: str) -> dict[str, str]:
        return {
            "PREFECT_API_URL": f"http://{host}:{self.prefect_port}/api",
            "MLFLOW_TRACKING_URI": f"http://{host}:{self.mlflow_port}",
        }

    @property
    def place(self) -> dict[str, int | str]:
        """Ports and host, by the environment variables that set them."""
        return {"PREFECT_PORT": self.prefect_port, "MLFLOW_PORT": self.mlflow_port, SETTING: self.host}

    def start_record(self) -> dict[str, Any]:
        """Returns the record of the start of the running services, see `softgrpo.flows.services.record.write_record`."""
        record: dict[str, Any] = json.loads((self.folder / PLACE_FILE).read_text(encoding="utf-8"))
        return record

    @property
    def credentials(self) -> dict[str, str]:
        """The variables that clients need where other machines reach the servers, which then ask for a password."""
        return client_variables(self.folder) if self._has_password else {}

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password of both servers, None where they ask for none."""
        if not self._has_password:
            return None
        user, _, password = self.credentials["PREFECT_API_AUTH_STRING"].partition(":")
        return user, password

    @property
    def _has_password(self) -> bool:
        return not is_loopback(self.host) and (self.folder / FILE).is_file()

    def make(self, words: str) -> str:
        """Returns a command line of make that means these services."""
        return make_line(words, self.output)

    def environment(self) -> dict[str, str]:
        """Returns the environment that deployments/supervisord.conf and deployments/prefect.yaml are read in."""
        inherited = dict(os.environ)
        for name in self.addresses:  # the servers are the addresses' other end, and the worker gets its own
            inherited.pop(name, None)
        if inherited.get(DATA_VARIABLE):  # a run of the worker works in another folder than this shell
            inherited[DATA_VARIABLE] = str(Path(inherited[DATA_VARIABLE]).absolute())
        return {
            "PREFECT_HOME": str(self.output / "prefect"),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.output / DATABASE}",
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.output / "mlartifacts"),
            # in memory, the usual place, a restarted server would forget who holds a slot, and never give it to anybody else
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_UI_API_URL": self.addresses_elsewhere[
                "PREFECT_API_URL"
            ],  # its page asks port 4200 otherwise
            # `prefect deployment run --watch` shows the log of a run only where the server passes it on
            "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
            "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
            "PREFECT_WORKER_QUERY_SECONDS": "2",  # a run, or its refusal, would wait for up to 10 s otherwise
            **mlflow_guards(self.host, self.mlflow_port),
            **inherited,
            **(server_variables(self.folder) | self.credentials if self._has_password else {}),
            "SOFTGRPO_MLFLOW_APP": "--app-name softgrpo" if self._has_password else "",
            "SOFTGRPO_ALLOWED_HOSTS": ",".join(names_of(self.host)),
            "SOFTGRPO_OUTPUT": str(self.output),
            "SOFTGRPO_SERVICES": str(self.folder),
            "SOFTGRPO_SOCKET": str(self.socket),
            "SOFTGRPO_PYTHON": sys.executable,
            "SOFTGRPO_HOST": self.host,
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
        completed = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        if check and completed.returncode:
            raise StoreError(
                f"supervisorctl {' '.join(words)}: {(completed.stdout + completed.stderr).strip()}",
                "The services are ended and started through it",
                f"Look into {self.folder}",
                code="STORE-016",
            )
        return completed

    def is_running(self) -> bool:
        """Whether supervisord answers at the socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def _port(setting: str) -> int:
    text = os.environ.get(setting) or str(PORTS[setting])
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise StoreError(
            f"{setting}={text}", "A port is a number from 1 to 65535", f"Correct or unset {setting}", code="STORE-017"
        )
    return int(text)


def find_services(output: Path) -> Services:
    """Returns the services of an output folder: where they run, else where the environment says that they are to.

    Raises:
        StoreError: A port is no number.
    """
    host = os.environ.get(SETTING) or LOOPBACK
    services = Services(output.resolve(), _port("PREFECT_PORT"), _port("MLFLOW_PORT"), host)
    if services.is_running():
        place = services.start_record()
        there = place.get(SETTING, LOOPBACK)  # services of an earlier version knew no other
        return Services(services.output, place["PREFECT_PORT"], place["MLFLOW_PORT"], there)
    return services
