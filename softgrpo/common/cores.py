"""How many cores a process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Returns how many cores the system gives this process; where it does not say, as on macOS, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
