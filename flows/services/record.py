"""The record of a start of services, and its uses: the worker's data path, a changed environment, repeated errors in logs."""

from __future__ import annotations

import json
import os

from softgrpo.flows.services.logs import log_ends, repeated_errors
from softgrpo.flows.services.places import PLACE_FILE, Services
from softgrpo.flows.services.worker_environment import check_same_environment, named_data_path, worker_variables


def write_record(services: Services) -> None:
    """Writes where services are started, in which environment, and how long their logs are so far."""
    record = services.place | {
        "variables": worker_variables(os.environ),
        "data_path": named_data_path(os.environ),
        "log_ends": log_ends(services.folder),
    }
    (services.folder / PLACE_FILE).write_text(json.dumps(record), encoding="utf-8")


def check_same_worker(services: Services) -> None:
    """Checks that this shell sets no variable that the worker of running services lacks or has with another value.

    Raises:
        ConfigError: See `check_same_environment`.
    """
    record = services.start_record()
    if "variables" in record:  # services of an earlier version have not written them down
        check_same_environment(services, record["variables"], record["data_path"])


def worker_data_path(services: Services) -> str | None:
    """Returns the data path that the worker was given, or that of services that do not run would get."""
    if not services.is_running():
        return named_data_path(os.environ)
    path: str | None = services.start_record().get("data_path")
    return path


def error_warnings(services: Services) -> list[str]:
    """Returns a line for each error that the logs of running services have repeated since their start.

    Args:
        services: The services; those that do not run have none.
    """
    if not services.is_running():
        return []
    starts = services.start_record().get("log_ends", {})
    return [f"warning: {error}" for error in repeated_errors(services.folder, starts)]
