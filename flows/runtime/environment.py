"""Where Prefect keeps its things and what libraries may send home: set before any of them is imported."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from softgrpo.common.files import make_private
from softgrpo.common.paths import STAGES
from softgrpo.errors import StoreError, is_full_disk
from softgrpo.flows.runtime.empty_database import check_own_database
from softgrpo.tasks.servers.addresses import SERVERS, check_answers
from softgrpo.tasks.servers.database import DATABASE, check_database

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # lines from outside a run are for the console alone
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # once for each stage; the link is shown at the end of a run
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def takes_files(folder: Path) -> bool:
    """Returns whether a folder takes new files, or the nearest one above it that exists; what is made there to see it is gone."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".softgrpo-", dir=existing):
            return True
    except OSError as error:
        return is_full_disk(error)  # another matter, which a later write reports


def check_takes_files(flag: str, folder: Path) -> None:
    """Checks a folder that a flag names before anything is made there.

    Args:
        flag: The flag.
        folder: Need not exist.

    Raises:
        StoreError: It does not take new files, or cannot be made.
    """
    if not takes_files(folder):
        raise StoreError(
            f"{flag} {folder}",
            "It must be a folder that takes new files",
            "Name another folder, or give yourself the right to write",
            code="STORE-006",
        )


def check_output(folder: Path) -> None:
    """Checks the output folder of a run before anything is made there.

    Raises:
        StoreError: It does not take new files, something else stands where stages or a database belong, or a database is damaged.
    """
    check_takes_files("--output", folder)
    if (stages := folder / STAGES).exists() and not stages.is_dir():
        raise StoreError(
            f"'{stages}' is a file",
            "Finished stages are kept in a folder of that name",
            "Move it away, or name another --output",
            code="STORE-007",
        )
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        check_database(folder)
    if not os.environ.get("PREFECT_API_URL"):
        check_own_database(prefect_home(folder))


def prefect_home(output: Path) -> Path:
    """Returns the folder of Prefect's own server of a run: PREFECT_HOME, or one in the output folder."""
    return Path(os.environ.get("PREFECT_HOME") or output.resolve() / "prefect")


def check_writable(folder: Path) -> None:
    """Makes a folder if needed, which only its owner can read, and writes to it.

    Raises:
        StoreError: That is not allowed, or the disk is full.
    """
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        make_private(folder)
        probe.write_text("probe", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"output folder '{folder}' cannot be written ({error.strerror})",
            "Stages, models and the run's record are written there",
            "Choose another folder with --output, or make this one writable",
            code="STORE-008",
        ) from error


def keep_off_proxy(*hosts: str) -> None:
    """Lets no request to this machine's servers go through a proxy.

    Args:
        hosts: Under which they are asked, besides loopback.
    """
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost", *hosts]))


def set_quiet_defaults() -> None:
    """Keeps libraries from logging much and sending usage data, unless the environment says otherwise; see `keep_off_proxy`."""
    keep_off_proxy()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def prepare_to_read(output: Path) -> None:
    """Sets the environment for a command that reads what runs have stored; it makes nothing.

    Args:
        output: Folder of finished stages, and of MLflow's database unless MLFLOW_TRACKING_URI names another.

    Raises:
        StoreError: No run is stored there.
    """
    if not (os.environ.get("MLFLOW_TRACKING_URI") or (output / DATABASE).is_file()):
        raise StoreError(
            f"--output {output}",
            f"No run is stored there: that folder has no {DATABASE}",
            "Name the folder that the runs wrote to, or their server with MLFLOW_TRACKING_URI",
            code="STORE-009",
        )
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        check_database(output)
    set_quiet_defaults()


_answered: set[str] = set()
"""Addresses that have answered this process, and that of its own server, which will."""


def mark_as_answering(address: str) -> None:
    """Keeps `check_servers` from asking a server that this process has started itself, and that may still be starting."""
    _answered.add(address)


def check_servers() -> None:
    """Checks that the servers that the environment names answer, each once in this process.

    Raises:
        ConfigError: One is no address, or a proxy is of a kind that the libraries cannot use.
        StoreError: One does not answer, or is of another kind.
    """
    set_quiet_defaults()
    from softgrpo.tasks.servers.server_kinds import check_proxies  # requests, which `softgrpo --help` need not wait for

    check_proxies()
    for name in SERVERS:
        address = os.environ.get(name)
        if address and address not in _answered:
            check_answers(address, name)
            _answered.add(address)


def prepare(output: Path) -> None:
    """Sets what the environment does not say yet, and makes the output folder, without which Prefect does not start.

    Args:
        output: Prefect's home becomes `<output>/prefect`, unless PREFECT_HOME or PREFECT_API_URL is set.

    Raises:
        ConfigError: See `check_servers`.
        StoreError: The output folder cannot be written, or a server that the environment names does not answer.
    """
    check_writable(output)
    check_servers()
    if "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_HOME"] = str(prefect_home(output))
