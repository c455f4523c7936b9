"""What a signal does to a process that is `interruptible`, each in a small process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from softgrpo.common.interruption import ENDING, Interrupted, end_at_once_next_time, interruptible

ROOT = Path(__file__).parents[3]
WAITING = """
import signal, sys, time
from softgrpo.common.interruption import Interrupted, interruptible
try:
    with interruptible():
        print("ready", flush=True)
        time.sleep(60)
except Interrupted as signalled:
    print(signalled, signalled.number, flush=True)
    if sys.argv[1:]:
        time.sleep(60)
"""


def started(*words: str, ignored: int | None = None) -> subprocess.Popen[str]:
    """Starts a process that waits; a shell starts one that ignores a signal, as `nohup` does."""
    ignoring: Callable[[], object] | None = None if ignored is None else lambda: signal.signal(ignored, signal.SIG_IGN)
    command = [sys.executable, "-c", WAITING, *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=ignoring)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


LOSING = """
import time
from softgrpo.common.interruption import Interrupted, interruptible

class Last:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)

try:
    with interruptible():
        Last()
        time.sleep(60)
except Interrupted as signalled:
    print(signalled, flush=True)
"""
"""Python shows an exception of a `__del__` and goes on, as if nothing had happened."""


def test_a_signal_that_comes_in_a_finaliser_is_not_lost() -> None:
    command = [sys.executable, "-c", LOSING]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=10)
    assert (out, errors, process.returncode) == ("SIGTERM\n", "", 0)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_interrupts_the_work_and_a_second_ends_the_process(number: signal.Signals) -> None:
    process = started("and wait")
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{number.name} {int(number)}\n"
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()


def test_what_is_ignored_stays_ignored() -> None:
    process = started(ignored=signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "SIGTERM 15\n"
    assert process.returncode == 0


def test_handlers_come_back_and_those_of_others_stay() -> None:
    def theirs(number: int, frame: object) -> None:
        raise AssertionError("nobody has sent it")

    before = [signal.getsignal(number) for number in ENDING]
    old = signal.signal(signal.SIGQUIT, theirs)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGQUIT) is theirs
            with pytest.raises(Interrupted, match="SIGHUP"), interruptible():
                signal.raise_signal(signal.SIGHUP)
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)  # what is left of a second one must not end these tests
    finally:
        for number, handler in zip(ENDING, before, strict=True):
            signal.signal(number, handler)
        signal.signal(signal.SIGQUIT, old)


def test_other_threads_and_what_is_not_interruptible_stay_as_they_are() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    end_at_once_next_time()
    assert [signal.getsignal(number) for number in ENDING] == before
    seen: list[object] = []

    def elsewhere() -> None:
        with interruptible():
            end_at_once_next_time()
            seen.extend(signal.getsignal(number) for number in ENDING)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == before
