"""Checks that servers answer at their addresses, and the commands that start them.

The checks come before MLflow or Prefect is imported, whose own retries take minutes.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from softgrpo.common.paths import CLONE
from softgrpo.common.redaction import without_password
from softgrpo.errors import ConfigError, StoreError
from softgrpo.tasks.servers.database import check_sqlite

TIMEOUT_SECONDS, DEADLINE_SECONDS = 5.0, 9.0
"""For each step of an answer, and for all of it."""
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
EXAMPLES = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
SERVERS = tuple(EXAMPLES)
MLFLOW = "MLFLOW_TRACKING_URI"
MLFLOW_CREDENTIALS = "SOFTGRPO_CREDENTIALS"
"""Environment variable with user and password, a colon between them, for MLflow's server, see `softgrpo.tasks.tracking.app`."""
WITHOUT_SCHEME = ("databricks", "databricks-uc")
"""Addresses that MLflow takes besides URLs."""


def make_line(words: str, output: Path) -> str:
    """Returns the command line for the services of an output folder: of make in the folder of a clone, of `softgrpo` elsewhere.

    Args:
        words: What make is told, such as `services` or `-s env`.
        output: The output folder.
    """
    folder = output.resolve()
    if CLONE is None or Path.cwd() != CLONE:
        there = "" if folder == Path("outputs").resolve() else f" --output {shlex.quote(str(folder))}"
        return f"softgrpo {words.removeprefix('-s ')}{there}"
    there = "" if folder == CLONE / "outputs" else f" OUTPUT={shlex.quote(str(folder))}"
    return f"make {words}{there}"


def check_answers(uri: str, setting: str) -> None:
    """Asks whether a server of the right kind answers at a network address, and whether a local database is whole.

    Args:
        uri: Address of a server or a database.
        setting: Environment variable it came from, for the message.

    Raises:
        ConfigError: It is no address, or the driver of such a database is not installed.
        StoreError: Nothing answers within some seconds, or a server of another kind does.
    """
    if not _is_address(uri):
        raise _no_url(setting, without_password(f"://{uri}").removeprefix("://"))
    shown = without_password(uri)
    from softgrpo.tasks.servers.server_kinds import (
        within,  # requests takes a quarter of the time of `softgrpo --help`, which asks no server
    )

    try:
        within(DEADLINE_SECONDS, partial(_ask, uri, setting, shown))
    except OSError as error:  # requests' errors are OSErrors too
        raise StoreError(
            f"{setting}={shown}",
            f"no server answers there within {TIMEOUT_SECONDS:g} s",
            f"Start the server, correct the address, or unset {setting} to use the output folder",
            code="STORE-029",
        ) from error


def is_reached(page: str) -> bool:
    """Tells whether anything listens at the host and port of a page, within some seconds."""
    address = urlsplit(page)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def _is_address(uri: str) -> bool:
    """Tells whether a text is a URL, with a port that is a number, or what MLflow knows besides."""
    try:
        urlsplit(uri).port  # noqa: B018  # it is looked at only here
    except ValueError:
        return False
    return "://" in uri or uri.startswith("file:") or uri in WITHOUT_SCHEME


def _ask(uri: str, setting: str, shown: str) -> None:
    """Asks at an address; see `check_answers`.

    Raises:
        OSError: Nothing answers.
    """
    from softgrpo.tasks.servers.server_kinds import check_database_server, check_driver, check_web_server

    address = urlsplit(uri)
    scheme, host = address.scheme.split("+")[0], address.hostname
    if scheme in ("http", "https"):
        try:
            check_web_server(uri, setting, shown, TIMEOUT_SECONDS)
        except ValueError as error:  # of requests, about the URL
            raise _no_url(setting, shown) from error
        return
    if setting == "PREFECT_API_URL":
        raise _no_url(setting, shown)
    if scheme == "sqlite":
        check_sqlite(
            Path(uri.removeprefix("sqlite:///")), "MLflow's record of all runs is in that file", "Put its backup there"
        )
    elif scheme in DEFAULT_PORTS and host:
        check_driver(uri, setting, shown)
        socket.create_connection((host, address.port or DEFAULT_PORTS[scheme]), timeout=TIMEOUT_SECONDS).close()
        check_database_server(uri, setting, shown)


def _no_url(setting: str, shown: str) -> ConfigError:
    return ConfigError(
        f"{setting}={shown}",
        "It is no URL",
        f"Write one, such as {EXAMPLES[setting]}, or unset {setting}",
        code="CONFIG-073",
    )


def check_workers(parallel: int | None, dask: str | None) -> None:
    """Checks what a run says about the workers of its stages: processes here, or a cluster.

    Args:
        parallel: How many recallers are trained at once on this machine.
        dask: Address of the scheduler of a Dask cluster.

    Raises:
        ConfigError: Both are given, the number is too small, or a cluster has no servers to report to.
    """
    if parallel is not None and parallel < 1:
        raise ConfigError(
            f"--parallel {parallel}",
            "At least one recaller is trained at a time",
            "Give a larger number",
            code="CONFIG-074",
        )
    if dask is None:
        return
    if parallel is not None:
        raise ConfigError(
            "--parallel and --dask",
            "The cluster's workers say how many stages run at once",
            "Leave one out",
            code="CONFIG-075",
        )
    check_servers_of_cluster(SERVERS)


def check_servers_of_cluster(names: Sequence[str]) -> None:
    """Checks that the environment names servers that other machines can reach too.

    Args:
        names: Variables of the environment.

    Raises:
        ConfigError: One names none.
    """
    missing = [name for name in names if not os.environ.get(name, "").startswith("http")]
    if missing:
        raise ConfigError(
            f"--dask without {' and '.join(missing)}",
            "All workers of a cluster ask and report to the same servers",
            'Start them and name them: softgrpo services, then eval "$(softgrpo env)"',
            code="CONFIG-076",
        )
