"""Which errors are transient, so that a stage is tried again."""

from __future__ import annotations

import errno
import logging
from typing import Any

import requests

from softgrpo.errors import TimeLimitError, chain, is_full_disk
from softgrpo.reporting import Pruned
from softgrpo.tasks.tracking.connection import is_unavailable

RETRY_DELAYS_SECONDS = [15.0, 60.0, 300.0]
_TRANSIENT = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTUNREACH}
)
"""Errors of a network, and of a file system over a network, that is down for a while."""

log = logging.getLogger("softgrpo.retries")


def is_transient(error: BaseException | None) -> bool:
    """Tells whether an error, or one of its causes, is a transient fault of input or output.

    A request that a server refuses, a full disk, missing rights, a stage that took too long and errors of a training are not: they
    would come again.
    """
    if isinstance(error, Pruned) or is_full_disk(error):  # MLflow also calls SQLite on a full disk unavailable
        return False
    errors = list(chain(error))
    if any(isinstance(each, TimeLimitError) for each in errors):  # whatever it interrupted
        return False
    for error in errors:
        if not isinstance(error, Exception):  # Ctrl-C or a signal
            return False
        if isinstance(error, requests.RequestException) and not isinstance(error, requests.HTTPError):
            return True
        if is_unavailable(error):
            return True
        if isinstance(error, OSError) and error.errno in _TRANSIENT:
            return True
    return False


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Tells Prefect whether to try a stage again, and logs why; see `is_transient`."""
    if not is_transient(state.data):
        return False
    seconds = RETRY_DELAYS_SECONDS[task_run.run_count - 1]
    log.warning("%s: tried again in %.0f s: %s", task_run.name, seconds, state.data)
    return True
