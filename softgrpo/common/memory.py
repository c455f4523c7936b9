"""The memory that this process may still take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO, GROUPS, OWN = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""What Linux says of the machine, of its control groups (containers, services), and of the group that the process is in."""


def free_bytes(meminfo: Path = MEMINFO, groups: Path = GROUPS, own: Path = OWN) -> int:
    """Returns how many bytes of memory are free: those of the machine, or of its control groups where they leave less.

    On systems other than Linux it is half of the machine's memory. Control groups of both versions are asked.

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
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left_in(groups, path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):  # version 1 has a tree for each kind of limit
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left_in(groups / "memory", path, names)


def _left_in(tree: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """Gives what a group and those around it leave.

    Args:
        tree: Folder of the outermost group.
        path: Of the group, from there; a container may see only the outermost one.
        names: Files of the limit and of what is taken, and the line of `memory.stat` about cached files.
    """
    group = tree / path.lstrip("/")
    for folder in (group, *group.parents):
        limit, taken, stat = folder / names[0], folder / names[1], folder / "memory.stat"
        if limit.is_file() and taken.is_file() and limit.read_text(encoding="utf-8").strip().isdecimal():
            counts = (
                dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines()) if stat.is_file() else {}
            )
            # the kernel gives cached files back when memory is asked for
            used = int(taken.read_text(encoding="utf-8")) - int(counts.get(names[2], 0))
            yield max(0, int(limit.read_text(encoding="utf-8")) - used)
        if folder == tree:
            return
