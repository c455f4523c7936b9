"""How many cores a process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Returns how many cores the system gives this process; where it does not say, as on macOS, those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
