"""What running code tells those who watch it: progress bars, numbers and lines of a stage, and the wish to be ended early.

Bars are tqdm's on a terminal, and a plain line now and then in a file or a pipe.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 15.0

Watch = Callable[["ProgressBar"], None]
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Shows the bars of this thread to a function, about as often as they are drawn, until the block ends.

    Bars that end within their delay are not shown.

    Args:
        watch: Gets the bar; it has to be quick.
    """
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


class ProgressBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar that what is done sooner than its delay never shows, and that leaves whole lines behind.

    tqdm's own is shown before its delay by `set_postfix` and by log lines, and then ends without the end of its line.
    Where there is no terminal it would fill a file with its redrawings; here it says a line every 15 s and one at its end.

    Args:
        arguments: See tqdm.
        delay: Seconds before it is shown for the first time.
        options: See tqdm.
    """

    def __init__(self, *arguments: Any, delay: float = 2.0, **options: Any) -> None:
        self._plain = not sys.stderr.isatty() and "ipykernel" not in sys.modules  # a notebook draws bars of its own
        self._shown = False
        now = time.monotonic()
        self._worth_showing = now + delay
        self._due = now + (SECONDS_BETWEEN_LINES if self._plain else delay)
        if self._plain:
            options["ncols"] = 0  # numbers only
        super().__init__(*arguments, delay=delay, **options)

    def display(self, *arguments: Any, **options: Any) -> Any:
        """Draws the bar, or says its line, unless it is too early for that."""
        now = time.monotonic()
        if now >= self._worth_showing:
            self._show_to_watch()
        if now < self._due:
            return None
        if not self._plain:
            self._shown = True
            return super().display(*arguments, **options)
        self._due = now + SECONDS_BETWEEN_LINES
        return self._say()

    def _show_to_watch(self) -> None:
        watch = _watch.get()
        if watch is not None:
            watch(self)

    def _say(self) -> None:
        print(f"{time.strftime('%H:%M:%S')} | {self}", file=self.fp, flush=True)

    def clear(self, *arguments: Any, **options: Any) -> None:
        """Takes a drawn bar away, for a log line."""
        if self._shown:
            super().clear(*arguments, **options)

    def close(self) -> None:
        """Draws the bar, or says its line, for the last time."""
        if self.disable:
            return
        if self._plain and self.leave and time.monotonic() >= self._worth_showing:
            self._say()
        self.delay = 0.0 if self._shown else math.inf  # by which tqdm tells whether it has drawn anything
        super().close()


BEST_METRIC = "eval_ndcg_best_reading"
"""Curve of a training by which its model is chosen: NDCG on validation windows, read at the better of both temperatures."""


class Reporter(Protocol):
    """Receives what a stage has to say while it runs."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve."""

    def info(self, message: str) -> None:
        """Takes one line for the log."""


class Speaker(logging.Handler):
    """Says what a stage reports and logs, and how far it is, to another process, whose `Relay` takes it.

    Args:
        send: Sends a message.
        speaks: Whether this process says more than how it ends.
    """

    def __init__(self, send: Callable[[list[Any]], None], speaks: bool = True) -> None:
        super().__init__()
        self._send, self._speaks = send, speaks

    def say(self, *message: Any) -> None:
        """Says something, whether or not this process speaks."""
        self.acquire()  # threads of a library log too
        try:
            self._send(list(message))
        finally:
            self.release()

    def _report(self, *message: Any) -> None:
        if self._speaks:
            self.say(*message)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve."""
        self._report("metrics", {name: float(value) for name, value in values.items()}, step)

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self._report("info", message)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes what was logged."""
        self._report("log", record.name, record.levelno, self.format(record))

    def bar(self, bar: ProgressBar) -> None:
        """Takes a progress bar; that of an evaluation, which vanishes at its end, would hide the training's and is left out."""
        if bar.leave:
            self._report("bar", [id(bar), bar.desc, bar.total, bar.unit], bar.n, bar.postfix)

    @contextmanager
    def only(self) -> Iterator[None]:
        """Lets nothing but this speak for the process: it takes logs and warnings, and bars are drawn by whoever hears it."""
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            logging.captureWarnings(True)
            logging.getLogger().addHandler(self)
            logging.getLogger("softgrpo").setLevel(logging.INFO)
            yield


class Relay:
    """Passes on what a stage says in another process; bars are drawn, one at a time, for this one's console and its page.

    Args:
        reporter: Of the stage.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._drawn: tuple[list[Any], ProgressBar] | None = None

    def take(self, kind: str, values: list[Any]) -> bool:
        """Passes a message on, and tells whether it was one to be passed on.

        Args:
            kind: metrics, info, log or bar.
            values: What the reporter takes; name, level and text of a record; or what `_draw` takes.
        """
        if kind == "metrics":
            self._reporter.metrics(*values)
        elif kind == "info":
            self._reporter.info(*values)
        elif kind == "log":
            name, level, text = values
            logging.getLogger(name).log(level, "%s", text)
        elif kind == "bar":
            self._draw(*values)
        else:
            return False
        return True

    def _draw(self, which: list[Any], done: float, postfix: str | None) -> None:
        """Draws a bar: what tells it from others, its label, total and unit; how far it is; and what stands behind it."""
        if self._drawn is None or self._drawn[0] != which:
            self.close()
            _, label, total, unit = which
            self._drawn = which, ProgressBar(total=total, desc=label.removesuffix(": "), unit=unit, delay=0)
        bar = self._drawn[1]
        bar.n = done
        bar.set_postfix_str(postfix or "", refresh=False)
        bar.refresh()

    def close(self) -> None:
        """Takes the bar away."""
        if self._drawn is not None:
            bar = self._drawn[1]
            bar.leave = False  # the log says when the stage is done
            bar.close()
            self._drawn = None


class Pruned(Exception):
    """Ends a stage that is not worth going on with; nothing of it is committed. No error: it says why, and whoever asked knows."""
