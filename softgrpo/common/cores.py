"""How many cores a process may use."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """Returns how many cores the system gives this process; where it does not say, as on macOS, those of the machine."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
