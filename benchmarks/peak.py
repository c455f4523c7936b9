"""The largest memory that a process has had."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_bytes_of_process() -> int:
    """Returns the largest memory that this process has had, in bytes.

    It comes from Linux's status file where there is one: the number that `getrusage` gives there includes the
    parent process, as it was when it started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
