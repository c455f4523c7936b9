"""The progress of a long stage on Prefect's page: an artifact that is updated every 15 seconds."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from softgrpo.reporting import BEST_METRIC, ProgressBar, watched

SECONDS_BEFORE_FIRST = 5.0
"""A stage that ends sooner shows nothing."""
SECONDS_BETWEEN_UPDATES = 15.0
NUMBERS = {BEST_METRIC: "validation NDCG"}
"""Labels of numbers that a bar carries; all others keep their names."""

log = logging.getLogger("softgrpo.reporting")


class ProgressPage:
    """Sends a stage's progress to Prefect's server, in a thread of its own: the stage never waits for the server.

    Args:
        node: Name of the stage's node.
    """

    def __init__(self, node: str) -> None:
        self._key = re.sub(r"[^a-z0-9]+", "-", f"progress-{node.lower()}")  # other characters are refused
        self._sender = ThreadPoolExecutor(1, thread_name_prefix=self._key)
        self._context = copy_context()  # in which Prefect knows the task run
        self._artifact: UUID | None = None
        self._sending: Future[None] | None = None
        self._due = time.monotonic() + SECONDS_BEFORE_FIRST
        self._percent = 0.0

    def look(self, bar: ProgressBar) -> None:
        """Takes a bar; mostly there is nothing to do. The bar of an evaluation, which vanishes at its end, changes no percent."""
        now = time.monotonic()
        if now < self._due or not bar.total or (self._sending is not None and not self._sending.done()):
            return
        self._due = now + SECONDS_BETWEEN_UPDATES
        self._complain()
        if bar.leave:
            self._percent = 100.0 * bar.n / bar.total
        self._sending = self._submit(self._percent, in_words(bar.format_dict))

    def done(self) -> None:
        """Shows that the stage has ended well, if anything was shown before."""
        if self._sending is not None:
            self._sending = self._submit(100.0, "done")

    def close(self) -> None:
        """Waits for what is being sent."""
        self._sender.shutdown()
        self._complain()

    def _submit(self, percent: float, text: str) -> Future[None]:
        return self._sender.submit(self._context.run, self._send, percent, text)

    def _send(self, percent: float, text: str) -> None:
        if self._artifact is None:
            artifact = create_progress_artifact(percent, self._key, text)
            assert isinstance(artifact, UUID)  # a coroutine in asynchronous code only
            self._artifact = artifact
        else:
            update_progress_artifact(self._artifact, percent, text)

    def _complain(self) -> None:
        """Logs that the last update failed; the stage goes on."""
        error = None if self._sending is None else self._sending.exception()
        if error is not None:
            log.warning("Prefect's page does not show how far this is: %s", error)


def in_words(bar: Mapping[str, Any]) -> str:
    """Returns the progress of a bar in words, such as `SFT: step 12 of 40, loss 0.5312, about 2 min left`.

    Args:
        bar: `format_dict` of a bar that has a total.
    """
    numbers = [part.partition("=") for part in (bar["postfix"] or "").split(", ") if part]
    parts = [f"{bar['unit']} {bar['n']:,} of {bar['total']:,}"]
    parts += [f"{NUMBERS.get(name, name)} {value}" for name, _, value in numbers]
    steps = bar["n"] - bar["initial"]
    rate = bar["rate"] or (steps / bar["elapsed"] if bar["elapsed"] else 0.0)
    if rate > 0:
        parts.append(f"about {duration((bar['total'] - bar['n']) / rate)} left")
    label = (bar["prefix"] or "").removesuffix(": ")
    return f"{label}: {', '.join(parts)}" if label else ", ".join(parts)


def duration(seconds: float) -> str:
    """Returns a time in words: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def on_progress_page(node: str) -> Iterator[None]:
    """Shows how far the block is on Prefect's page, if it takes long enough; call it inside a task.

    Args:
        node: Name of the stage's node.
    """
    page = ProgressPage(node)
    try:
        with watched(page.look):
            yield
        page.done()
    finally:
        page.close()
