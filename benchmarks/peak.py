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


def anonymous_bytes(process: int) -> int:
    """Returns the bytes of a process that lie in no file, so that the system cannot give them to others; 0 where it is not told."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:  # it has ended, or this is another system
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem") if name in lines)
