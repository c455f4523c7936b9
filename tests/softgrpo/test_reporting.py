"""Bars do not show before their delay, end with the end of a line, and are a few plain lines where there is no terminal."""

from __future__ import annotations

import io
import logging
import re
from contextlib import redirect_stderr

import pytest

from softgrpo import reporting
from softgrpo.flows.runtime.console import Lines
from softgrpo.reporting import ProgressBar, watched


class Screen(io.StringIO):
    """A terminal that remembers all that was written to it."""

    def isatty(self) -> bool:
        return True


class Clock:
    """The time, set by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return "12:34:56"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reporting, "time", clock)
    return clock


def test_a_file_gets_a_line_now_and_then_and_one_at_the_end(clock: Clock) -> None:
    with redirect_stderr(io.StringIO()) as file, ProgressBar(total=100, desc="SFT", unit="step") as bar:
        for step in range(100):
            clock.now = 100.0 + step + 1
            bar.update()
            bar.set_postfix(loss=f"{step}")  # asks for a drawing each time
    assert "\r" not in file.getvalue()
    lines = file.getvalue().splitlines()
    # the first is due at 100 + 15, each puts the next one 15 s off; the last one is said at the end
    assert [line.split("/")[0].split()[-1] for line in lines] == ["15", "30", "45", "60", "75", "90", "100"]
    assert all(line.startswith("12:34:56 | SFT: ") for line in lines)
    assert "loss=99" in lines[-1]


@pytest.mark.parametrize("leave", [True, False])
def test_what_is_short_says_nothing_in_a_file(leave: bool, clock: Clock) -> None:
    with redirect_stderr(io.StringIO()) as file, ProgressBar(total=2, leave=leave) as bar:
        bar.update()
        clock.now += 1.9
        bar.update()
        bar.set_postfix(loss="1")
    assert file.getvalue() == ""


def test_what_is_short_shows_no_bar_and_leaves_no_rest_of_one(clock: Clock) -> None:
    with redirect_stderr(Screen()) as screen, ProgressBar(total=2, desc="BPR") as bar:
        bar.update(2)
        bar.set_postfix(loss="1")  # tqdm's own bar shows here, and ends without the end of its line
    assert screen.getvalue() == ""


def test_a_bar_ends_with_the_end_of_its_line(clock: Clock) -> None:
    with redirect_stderr(Screen()) as screen, ProgressBar(total=2, desc="BPR") as bar:
        clock.now += 2.1
        bar.update(2)
        bar.set_postfix(loss="1")
    assert "BPR: 100%" in screen.getvalue()
    assert screen.getvalue().endswith("\n")


def test_a_log_line_stands_alone_above_the_bar(clock: Clock) -> None:
    log = logging.Logger("trial")
    log.addHandler(Lines())
    with redirect_stderr(Screen()) as screen, ProgressBar(total=2, desc="BPR") as bar:
        log.info("too early for the bar")
        assert screen.getvalue() == "too early for the bar\n"
        clock.now += 2.1
        bar.set_postfix(loss="1")
        log.info("done")
        before, line, behind = screen.getvalue().partition("done\n")
    assert re.search(r"\rBPR: .*\r +\r$", before)  # drawn, and wiped out with blanks
    assert line
    assert behind.startswith("\rBPR: ")  # drawn again


@pytest.mark.parametrize("kind", [io.StringIO, Screen])
def test_what_is_read_through_a_bar_is_what_is_there(kind: type[io.StringIO]) -> None:
    with redirect_stderr(kind()), ProgressBar.wrapattr(io.BytesIO(b"abc"), "read", 3, desc="download") as source:
        assert source.read() == b"abc"


def test_a_watch_sees_bars_that_last_and_only_inside_its_block(clock: Clock) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluations: list[str] = []

    def watch(bar: ProgressBar) -> None:
        if bar.leave:
            seen.append((bar.desc, bar.n, bar.total))
        else:
            evaluations.append(bar.desc)

    with redirect_stderr(io.StringIO()):
        with watched(watch):
            with ProgressBar(total=4, desc="SFT", mininterval=0.0, miniters=1) as bar:
                bar.set_postfix(loss="1")  # too early
                clock.now += 2.1
                bar.update(3)
                bar.set_postfix(loss="0.5")
            with ProgressBar(total=4, desc="validation", leave=False, delay=0.0) as other:
                other.set_postfix(loss="1")
        with ProgressBar(total=4, desc="behind", delay=0.0) as behind:
            behind.set_postfix(loss="1")
    assert set(seen) == {("SFT", 3, 4)}
    assert set(evaluations) == {"validation"}
