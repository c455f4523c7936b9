"""What a part of a program takes of the memory that lies in no file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peak import anonymous_bytes

PAUSE_SECONDS = 0.001


@contextmanager
def printed_peak() -> Iterator[None]:
    """Prints, in MiB, by how much the block takes more than there was before it, at most."""
    before = peak = anonymous_bytes(os.getpid())
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous_bytes(os.getpid()))
            time.sleep(PAUSE_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    done.set()
    watcher.join()
    print((peak - before) / 2**20)
