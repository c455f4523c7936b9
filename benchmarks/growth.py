"""How time and memory of the steps of `benchmarks.scale` grow with the users: fitted exponents and slopes, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAPER_USERS = (10_000_000, 100_000_000)
MACHINE_BYTES = 24e9
"""Memory of a machine in the table on paper."""
MOST_TIME, MOST_MEMORY = 1.05, 0.1
"""Largest exponents that are wanted."""


@dataclass(frozen=True)
class Measured:
    """One step with one number of users.

    Attributes:
        step: Its name.
        users: How many.
        lists: How many recallers.
        seconds: Of one core.
        peak: Bytes of all that was in memory: with the libraries' code, and with pages of mapped files.
        own: Bytes of what lies in no file, which the system cannot give to others; looked at every `PAUSE`.
        stored: Bytes of what it wrote.
    """

    step: str
    users: int
    lists: int
    seconds: float
    peak: float
    own: float
    stored: float


@dataclass(frozen=True)
class Fit:
    """How a step grows.

    Attributes:
        step: Its name.
        lists: How many recallers.
        time: Exponent of the time.
        memory: Exponent of the memory.
        own: Exponent of the memory that lies in no file.
        second: Seconds that a further user takes.
        byte: Bytes in no file that a further user takes at the peak.
        fixed: Bytes that every number of users takes.
        stored: Bytes that a further user takes on disk.
    """

    step: str
    lists: int
    time: float
    memory: float
    own: float
    second: float
    byte: float
    fixed: float
    stored: float


def fit(points: Sequence[Measured]) -> Fit:
    """Fits one step at several numbers of users: exponents on logarithms, slopes by least squares."""
    users = np.array([point.users for point in points], dtype=np.float64)

    def exponent(values: Sequence[float]) -> float:
        return float(np.polyfit(np.log(users), np.log(values), 1)[0])

    def slope(values: Sequence[float]) -> tuple[float, float]:
        along, start = np.polyfit(users, values, 1)
        return float(max(along, 0.0)), float(start)

    seconds, peaks = [point.seconds for point in points], [point.peak for point in points]
    own = [point.own for point in points]
    byte, fixed = slope(own)
    stored, _ = slope([point.stored for point in points])
    first = points[0]
    of_time, of_peak, of_own = (exponent(values) for values in (seconds, peaks, own))
    return Fit(first.step, first.lists, of_time, of_peak, of_own, slope(seconds)[0], byte, fixed, stored)


def fits(points: Sequence[Measured]) -> list[Fit]:
    """Returns the fit of each step with each number of lists, in the order of the points."""
    groups: dict[tuple[int, str], list[Measured]] = {}
    for point in points:
        groups.setdefault((point.lists, point.step), []).append(point)
    return [fit(group) for group in groups.values() if len(group) > 1]


def markdown(points: Sequence[Measured]) -> str:
    """Returns the tables in the form that `docs/performance.md` holds."""
    lines = ["| users | lists | step | s of one core | peak, MiB | in no file | stored, MiB |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [
        f"| {p.users:,} | {p.lists} | {p.step} | {p.seconds:.1f} | {p.peak / 2**20:,.0f} | {p.own / 2**20:,.0f} | "
        f"{p.stored / 2**20:,.1f} |"
        for p in points
    ]
    found = fits(points)
    lines += ["", "| lists | step | exponent of time | of the peak | of what is in no file | a user more: ms |"]
    lines[-1] += " KiB in no file | KiB stored |"
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {f.lists} | {f.step} | {f.time:.2f} | {f.memory:.2f} | {f.own:.2f} | {1000 * f.second:.2f} | "
        f"{f.byte / 2**10:.2f} | {f.stored / 2**10:.2f} |"
        for f in found
    ]
    lines += ["", *on_paper(found)]
    return "\n".join(lines) + "\n"


def on_paper(found: Sequence[Fit]) -> list[str]:
    """Returns the table on paper: what the slopes say of more users than this machine holds."""
    lines = ["| users | lists | stored, GB | hours of one core | shards of 24 GB |", "|---|---|---|---|---|"]
    for users in PAPER_USERS:
        for lists in sorted({each.lists for each in found}):
            own = [each for each in found if each.lists == lists]
            times = [lists if each.step == "recall" else 1 for each in own]
            stored = sum(each.stored * users * count for each, count in zip(own, times, strict=True))
            hours = sum(each.second * users * count for each, count in zip(own, times, strict=True)) / 3600
            shards = max(int(np.ceil(each.byte * users / (MACHINE_BYTES - each.fixed))) for each in own)
            lines.append(f"| {users:,} | {lists} | {stored / 1e9:,.0f} | {hours:,.0f} | {max(1, shards):,} |")
    return lines
