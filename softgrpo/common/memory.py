"""The memory that this process may still take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO, GROUPS, OWN = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""What Linux says of the machine, of its control groups (containers, services), and of the group that the process is in."""


def free_bytes(meminfo: Path = MEMINFO, groups: Path = GROUPS, own: Path = OWN) -> int:
    """Returns how many bytes of memory are free: those of the machine, or of its control groups where they leave less.

    On systems other than Linux it is half of the machine's memory. Limits of the first version of control groups are not seen.

    Args:
        meminfo: Tells the machine's free memory, in kB.
        groups: Folder of the groups; each tells its limit and what it takes.
        own: Tells the group of this process.
    """
    if not meminfo.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    return min(int(lines["MemAvailable"].split()[0]) * 1024, *_left(groups, own), 2**63)


def _left(groups: Path, own: Path) -> Iterator[int]:
    """Gives what the group of this process, and each group around it, leaves of its limit."""
    named = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    path = next((line.removeprefix("0::/") for line in named if line.startswith("0::/")), "")
    for folder in (groups / path, *(groups / path).parents):
        limit, taken, stat = folder / "memory.max", folder / "memory.current", folder / "memory.stat"
        if limit.is_file() and taken.is_file() and limit.read_text(encoding="utf-8").strip().isdecimal():
            counts = (
                dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines()) if stat.is_file() else {}
            )
            # the kernel gives cached files back when memory is asked for
            used = int(taken.read_text(encoding="utf-8")) - int(counts.get("inactive_file", 0))
            yield max(0, int(limit.read_text(encoding="utf-8")) - used)
        if folder == groups:
            return
