"""Messages of the command about errors, and its exit codes."""

from __future__ import annotations

import signal

from softgrpo.common.interruption import Interrupted
from softgrpo.common.redaction import without_password
from softgrpo.common.text import one_line
from softgrpo.errors import (
    ConfigError,
    SoftGRPOError,
    StoreError,
    is_full_disk,
    lack_of_memory,
    no_space,
    out_of_memory,
)
from softgrpo.tasks.servers.database import damaged_database

OK, FAILED, REFUSED = 0, 1, 2
"""Done; failed while running; refused before anything ran, nothing was written."""
SIGNALLED = 128
"""Added to the number of the signal that ended a command, as shells do."""
INTERRUPTED = SIGNALLED + signal.SIGINT
"""Interrupted by Ctrl-C."""


def exit_code(signalled: KeyboardInterrupt) -> int:
    """Returns the exit code of a command that a signal ended: 130 after Ctrl-C."""
    return SIGNALLED + signalled.number if isinstance(signalled, Interrupted) else INTERRUPTED


def interruption(signalled: KeyboardInterrupt) -> str:
    """Returns the message of a command that a signal has ended."""
    number = exit_code(signalled) - SIGNALLED
    what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return f"{what}. Finished stages are kept; the same command goes on from there."


def explained(error: Exception) -> SoftGRPOError | None:
    """Returns the readable form of an error whose cause lies outside of softgrpo, None for what is probably a bug of softgrpo."""
    if isinstance(error, SoftGRPOError):
        return error
    if is_full_disk(error):
        return no_space()
    if (cause := lack_of_memory(error)) is not None:
        return out_of_memory(cause)
    if (damaged := damaged_database(error)) is not None:
        return damaged
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "softgrpo":
        return ConfigError(
            f"The Python package '{error.name.partition('.')[0]}' is not installed",
            "Each part of softgrpo has an extra that brings its packages",
            "Run: pip install 'softgrpo[all]', or in a clone: make install",
            code="CONFIG-115",
        )
    if isinstance(error, OSError):
        rule = "Files that a run reads and writes must be accessible"
        remedy = "Mend it and repeat the command; --debug shows where it happened"
        return StoreError(f"The system refused: {error}", rule, remedy, code="STORE-010")
    return None


def readable(error: Exception) -> str:
    """Returns one readable message: what was received, the rule, the remedy."""
    known = explained(error)
    if known is not None:
        return str(known)
    message = one_line(without_password(f"{type(error).__name__}: {error}")).rstrip(".: ")
    kept = "Finished stages are kept; the same command goes on from there"
    return f"unexpected error, probably a fault of softgrpo: {message}. {kept}. --debug shows the traceback."
