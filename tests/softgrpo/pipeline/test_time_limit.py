"""What takes too long ends: with an error where Python can be interrupted, with the process where it cannot."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from softgrpo.errors import TimeLimitError
from softgrpo.pipeline.time_limit import time_limit


def test_a_block_that_waits_is_interrupted_and_puts_in_order_what_it_holds() -> None:
    cleaned: list[str] = []
    began = time.monotonic()
    with (
        pytest.raises(
            TimeLimitError, match=r"sft took longer than .* hours.*limits\.stage_hours.*Run the same command again"
        ),
        time_limit(0.2, "sft"),
    ):
        try:
            time.sleep(30)
        finally:
            cleaned.append("cleaned")
    assert time.monotonic() - began < 5
    assert cleaned == ["cleaned"]


def test_a_block_that_computes_is_interrupted() -> None:
    with pytest.raises(TimeLimitError), time_limit(0.2, "grpo"):
        while True:
            sum(range(1000))


def test_a_library_that_gives_the_interruption_a_name_of_its_own_changes_nothing() -> None:
    with pytest.raises(TimeLimitError, match="sft took longer") as caught, time_limit(0.1, "sft"):
        try:
            time.sleep(30)
        except Exception as error:
            raise ValueError("Unable to create tensor") from error
    assert isinstance(caught.value.__cause__, ValueError)


def test_what_ends_in_time_is_left_alone_and_so_is_what_comes_behind_it() -> None:
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(50):
        with time_limit(0.05, "data"):
            pass
    assert signal.getsignal(signal.SIGALRM) is before
    time.sleep(0.2)


def test_somebody_elses_alarm_is_theirs() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        with time_limit(30, "data"):
            signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_error_of_the_block_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), time_limit(30, "data"):
        1 / 0  # noqa: B018


def test_other_threads_have_no_limit() -> None:
    done: list[bool] = []

    def work() -> None:
        with time_limit(0.05, "recall"):
            time.sleep(0.3)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


STUCK = """
import ctypes
import softgrpo.pipeline.time_limit as limits
limits.GRACE_SECONDS = 1.0
with limits.time_limit(0.5, "stuck"):
    ctypes.PyDLL(None).sleep(60)  # holds Python's lock, so that no Python code runs
"""


def test_what_cannot_be_interrupted_ends_the_process_and_says_where_it_was() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=50)
    assert time.monotonic() - began < 30
    assert done.returncode == 1
    assert "Timeout" in done.stderr and 'File "<string>", line 6' in done.stderr
