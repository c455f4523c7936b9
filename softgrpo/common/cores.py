"""How many cores a process may use, and how many it does."""

from __future__ import annotations

import os

THREADS = "OMP_NUM_THREADS"
"""What libraries read for how many threads they make."""


def usable_cores() -> int:
    """Returns how many cores the system gives this process; where it does not say, as on macOS, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cores() -> int:
    """Returns how many cores this process may use: OMP_NUM_THREADS if it is set, but no more than the system gives it."""
    cores = usable_cores()
    threads = os.environ.get(THREADS, "")
    return min(cores, int(threads)) if threads.isdecimal() and int(threads) else cores
