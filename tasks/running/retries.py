"""Which errors may be gone by themselves in a while, so that a stage is worth trying again."""

from __future__ import annotations

import errno
import logging
from typing import Any

import requests

from softgrpo.errors import TimeLimitError, chain, is_full_disk
from softgrpo.reporting import Pruned
from tasks.tracking.connection import is_unavailable

RETRY_DELAYS_SECONDS = [15.0, 60.0, 300.0]
_PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTUNREACH}
)
"""What a network's file system and a network say when they are away for a while."""

log = logging.getLogger("softgrpo.faults")


def may_pass(error: BaseException | None) -> bool:
    """Tells whether an error, or one that it arose from, is a fault of input or output that may be gone in a while.

    A server that refuses, a full disk, a lack of rights, a stage that took too long and all that training says would be the same
    again.
    """
    if isinstance(error, Pruned) or is_full_disk(error):  # SQLite on a full disk is unavailable besides
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
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
    return False


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Tells Prefect whether to try a stage again, and logs why; see `may_pass`."""
    if not may_pass(state.data):
        return False
    seconds = RETRY_DELAYS_SECONDS[task_run.run_count - 1]
    log.warning("%s: tried again in %.0f s: %s", task_run.name, seconds, state.data)
    return True
