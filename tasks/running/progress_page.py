"""The progress of a long stage on Prefect's page: an artifact that is updated every 15 seconds."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from softgrpo.reporting import ProgressBar, Watch, watched
from softgrpo.tasks.running.bar_words import in_words

SECONDS_BEFORE_FIRST = 5.0
"""A stage that ends sooner shows nothing."""
SECONDS_BETWEEN_UPDATES = 15.0

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


@contextmanager
def on_progress_page(node: str, *others: Watch) -> Iterator[None]:
    """Shows how far the block is on Prefect's page, if it takes long enough; call it inside a task.

    Args:
        node: Name of the stage's node.
        others: Get the bars too.
    """
    page = ProgressPage(node)

    def look(bar: ProgressBar) -> None:
        for watch in (page.look, *others):
            watch(bar)

    try:
        with watched(look):
            yield
        page.done()
    finally:
        page.close()
