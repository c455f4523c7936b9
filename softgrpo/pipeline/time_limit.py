"""A limit to what a block of code may take, so that a stage that hangs ends with an error."""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from softgrpo.errors import TimeLimitError

GRACE_SECONDS = 60.0
STANDARD_ERROR = 2


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Ends a block of the main thread that takes too long.

    The block is interrupted as by Ctrl-C, and what it holds is put in order. What cannot be interrupted, such as code of a library
    that never returns to Python, ends the process a minute later, with the places where its threads were on standard error; the
    next run goes on from what is stored. In other threads there is no limit: stages that run beside each other have processes
    of their own.

    Args:
        seconds: The limit.
        what: Name of the block, for the message.

    Raises:
        TimeLimitError: The block took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late = threading.Event()
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=STANDARD_ERROR)
    try:
        with _interrupted(seconds, what, late):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _interrupted(seconds: float, what: str, late: threading.Event) -> Iterator[None]:
    """Raises the error in this thread, where Python handles signals."""
    thread = threading.get_ident()

    def ring() -> None:
        late.set()
        signal.pthread_kill(thread, signal.SIGALRM)

    def handle(number: int, frame: FrameType | None) -> None:
        if late.is_set():
            raise _too_late(seconds, what)
        if callable(before):  # somebody else's alarm
            before(number, frame)

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    before = signal.signal(signal.SIGALRM, handle)
    timer.start()
    try:
        yield
    except Exception as error:  # broad: a library may have given the interruption any name; all else goes on as it is
        if late.is_set() and not isinstance(error, TimeLimitError):
            raise _too_late(seconds, what) from error
        raise
    finally:
        timer.cancel()
        timer.join()  # an alarm of the last moment must not meet the handler from before, which may end the process
        signal.signal(signal.SIGALRM, before)


def _too_late(seconds: float, what: str) -> TimeLimitError:
    return TimeLimitError(
        f"{what} took longer than {seconds / 3600:.3g} hours",
        "limits.stage_hours is the longest that a stage may take, so that one that hangs does not hang for ever",
        "Run the same command again, which goes on from the last checkpoint; if it was at work and did not hang, raise the limit",
        code="TIME-001",
    )
