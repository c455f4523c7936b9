"""What people are told about an error, and the exit codes."""

from __future__ import annotations

from softgrpo.errors import SoftGRPOError, StoreError, is_full_disk, no_space
from softgrpo.redaction import without_password

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Done; failed while running; refused before anything ran, nothing was written; interrupted by Ctrl-C."""


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
    message = without_password(" ".join(f"{type(error).__name__}: {error}".split())).rstrip(".: ")
    kept = "Finished stages are kept; the same command goes on from there"
    return f"unexpected error, probably a fault of softgrpo: {message}. {kept}. --debug shows the traceback."
