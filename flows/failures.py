"""What people are told about an error, and the exit codes."""

from __future__ import annotations

import signal

from softgrpo.errors import SoftGRPOError, StoreError, is_full_disk, no_space
from tasks.interruption import Interrupted

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
    """Returns what people are told when a signal has ended a command."""
    number = exit_code(signalled) - SIGNALLED
    what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return f"{what}. Finished stages are kept; the same command goes on from there."


def readable(error: Exception) -> str:
    """Returns one message for people: what was received, the rule, the remedy."""
    if isinstance(error, SoftGRPOError):
        return str(error)
    if is_full_disk(error):
        return str(no_space())
    if isinstance(error, OSError):
        rule = "Files that a run reads and writes must be accessible"
        remedy = "Mend it and repeat the command; --debug shows where it happened"
        return str(StoreError(f"The system refused: {error}", rule, remedy))
    message = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    kept = "Finished stages are kept; the same command goes on from there"
    return f"unexpected error, probably a fault of softgrpo: {message}. {kept}. --debug shows the traceback."
