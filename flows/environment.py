"""Where Prefect keeps its things and what libraries may send home: set before any of them is imported."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from softgrpo.errors import StoreError
from tasks.addresses import check_answers

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


def check_writable(folder: Path) -> None:
    """Makes a folder if needed and writes to it.

    Raises:
        StoreError: That is not allowed, or the disk is full.
    """
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("probe", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"output folder '{folder}' cannot be written ({error.strerror})",
            "Stages, models and the run's record are written there",
            "Choose another folder with --output, or make this one writable",
        ) from error


def prepare(output: Path) -> None:
    """Sets what the environment does not say yet, and makes the output folder, without which Prefect does not start.

    Args:
        output: Prefect's home becomes `<output>/prefect`, unless PREFECT_HOME or PREFECT_API_URL is set.

    Raises:
        StoreError: The output folder cannot be written, or a server that the environment names does not answer.
    """
    check_writable(output)
    for name in ("NO_PROXY", "no_proxy"):  # a run's own servers are on this machine
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        if name in os.environ:
            check_answers(os.environ[name], name)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(output.resolve() / "prefect"))
