"""The memory that this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

MEMINFO, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
"""What Linux says of the machine, and of the control group (a container, a service) that the process is in."""


def free_bytes(meminfo: Path = MEMINFO, group: Path = GROUP) -> int:
    """Returns how many bytes of memory are free: those of the machine, or of its control group where that leaves less.

    On systems other than Linux it is half of the machine's memory.

    Args:
        meminfo: Tells the machine's free memory, in kB.
        group: Folder that tells a group's limit and what it takes.
    """
    if not meminfo.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, taken = group / "memory.max", group / "memory.current"
    if limit.is_file() and taken.is_file() and limit.read_text(encoding="utf-8").strip().isdecimal():
        free = min(free, max(0, int(limit.read_text(encoding="utf-8")) - int(taken.read_text(encoding="utf-8"))))
    return free
