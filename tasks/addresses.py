"""Whether somebody answers at an address, asked before MLflow or Prefect is imported, and how make starts who should.

Their own retries take minutes.
"""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path
from urllib.parse import urlsplit

import requests

from softgrpo.errors import ConfigError, StoreError
from softgrpo.redaction import without_password

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 5.0
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
EXAMPLES = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
SERVERS = tuple(EXAMPLES)
MLFLOW_CREDENTIALS = "SOFTGRPO_CREDENTIALS"
"""Environment variable with the `user:password` that MLflow's server asks for, see `tasks.mlflow_app`."""
WITHOUT_SCHEME = ("databricks", "databricks-uc")
"""What MLflow knows besides URLs."""


def make_line(words: str, output: Path) -> str:
    """Returns a command line of make that means the services of an output folder."""
    folder = output.resolve()
    there = "" if folder == ROOT / "outputs" else f" OUTPUT={shlex.quote(str(folder))}"
    return f"make {words}{there}"


def check_answers(uri: str, setting: str) -> None:
    """Asks whether somebody answers at a network address; addresses of local files always pass.

    Args:
        uri: Address of a server or a database.
        setting: Environment variable it came from, for the message.

    Raises:
        ConfigError: It is no address.
        StoreError: Nobody answers within some seconds.
    """
    if "://" not in uri and not uri.startswith("file:") and uri not in WITHOUT_SCHEME:
        raise ConfigError(
            f"{setting}={without_password(f'://{uri}').removeprefix('://')}",
            "It is no URL",
            f"Write one, such as {EXAMPLES[setting]}, or unset {setting}",
        )
    address = urlsplit(uri)
    scheme = address.scheme.split("+")[0]
    try:
        if scheme in ("http", "https"):
            requests.get(uri, timeout=TIMEOUT_SECONDS, stream=True).close()
        elif scheme in DEFAULT_PORTS and address.hostname:
            port = address.port or DEFAULT_PORTS[scheme]
            socket.create_connection((address.hostname, port), timeout=TIMEOUT_SECONDS).close()
    except OSError as error:  # requests' errors are OSErrors too
        raise StoreError(
            f"{setting}={without_password(uri)}",
            f"nobody answers there within {TIMEOUT_SECONDS:g} s",
            f"Start the server, correct the address, or unset {setting} to use the output folder",
        ) from error


def check_hands(parallel: int | None, dask: str | None) -> None:
    """Checks what a run says about where its stages run.

    Args:
        parallel: How many recallers are trained at once on this machine.
        dask: Address of the scheduler of a Dask cluster.

    Raises:
        ConfigError: Both are given, the number is too small, or a cluster has no servers to report to.
    """
    if parallel is not None and parallel < 1:
        raise ConfigError(
            f"--parallel {parallel}", "At least one recaller is trained at a time", "Give a larger number"
        )
    if dask is None:
        return
    if parallel is not None:
        raise ConfigError(
            "--parallel and --dask", "The cluster's workers say how many stages run at once", "Leave one out"
        )
    missing = [name for name in SERVERS if not os.environ.get(name, "").startswith("http")]
    if missing:
        raise ConfigError(
            f"--dask without {' and '.join(missing)}",
            "All workers of a cluster report to the same servers",
            'Start them and name them: make services, then eval "$(make -s env)"',
        )
