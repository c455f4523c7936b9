"""Signals that ask this process to end: the first interrupts the work, which is put in order; a second ends the process at once.

Ctrl-C is one of them. Inside a flow Prefect handles SIGTERM, by which its runner cancels a run; this module handles the others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_UNHANDLED = (signal.SIG_DFL, signal.default_int_handler)
_STANDARD_OUTPUT_AND_ERROR = (1, 2)
AGAIN_SECONDS = 0.05
"""After which a signal is sent again whose exception was lost."""
_active: list[_Handling] = []
"""The blocks of this process whose signals are handled, the innermost last."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. Libraries that know what to do at Ctrl-C do the same.

    Args:
        number: The signal.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible(exception: Callable[[int], BaseException] = Interrupted) -> Iterator[None]:
    """Raises an exception in the main thread when a signal asks this process to end.

    A signal that is ignored stays ignored, as `nohup` wants it; one that somebody else handles stays with that handler. In other
    threads, where Python handles no signal, nothing is done.

    Args:
        exception: Makes the exception from the signal's number; it must be no `Exception`, so that nothing takes it for an error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handling = _Handling(exception)
    _active.append(handling)
    try:
        yield
    finally:
        _active.remove(handling)
        handling.end()


class _Handling:
    """Handles the signals that nobody handles yet, until `end`."""

    def __init__(self, exception: Callable[[int], BaseException]) -> None:
        self._exception = exception
        self._before = {number: handler for number in ENDING if (handler := signal.getsignal(number)) in _UNHANDLED}
        self._raised: BaseException | None = None
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._see_lost
        for number in self._before:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._raised, self._number = self._exception(number), number
        end_at_once_next_time()
        if number == signal.SIGHUP:
            _drop_lost_terminal()
        raise self._raised

    def _see_lost(self, lost: sys.UnraisableHookArgs) -> None:
        """Sends a signal again that came inside a `__del__` or a callback, where Python raises nothing to those outside."""
        if lost.exc_value is None or lost.exc_value is not self._raised:
            self._hook(lost)
            return
        signal.signal(self._number, self._receive)
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), self._number))
        again.daemon = True
        again.start()

    def end(self) -> None:
        """Puts the handlers of before back, unless the process is ending: then a second signal ends it at once."""
        if sys.unraisablehook == self._see_lost:  # else it belongs to others, who call this one
            sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler if self._raised is None else signal.SIG_DFL)


def end_at_once_next_time() -> None:
    """Lets the next signal end this process without putting anything in order, for those who do not want to wait for that.

    Nothing of the run outlives it: its other processes end with this one, however it ends. Nothing is done outside `interruptible`
    and in threads other than the main one.
    """
    if _active and threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _drop_lost_terminal() -> None:
    """Redirects standard output and standard error to nowhere where they lead to a terminal that is gone; writing would fail."""
    for descriptor in _STANDARD_OUTPUT_AND_ERROR:
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
