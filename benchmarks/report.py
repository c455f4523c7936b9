"""What was measured, beside what it should be: rows, their table, and the machine they were measured on."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy")
FILE_WIDTH = 160
"""Columns of the table where it goes into a file."""
HEADINGS = ("what", "measured", "aim", "", "details")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        value: The number; None where it could not be measured, and `details` says why.
        unit: Behind the number: times, % or words such as prompts/s.
        at_most: The largest value that meets the aim.
        at_least: The smallest value that meets the aim.
        details: The numbers behind the value.
    """

    what: str
    value: float | None
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    details: str = ""

    @property
    def verdict(self) -> str:
        """met or missed; not measured; empty where there is no aim."""
        if self.value is None:
            return "not measured"
        if self.at_most is None and self.at_least is None:
            return ""
        high = self.at_most is None or self.value <= self.at_most
        low = self.at_least is None or self.value >= self.at_least
        return "met" if high and low else "missed"

    def cells(self) -> tuple[str, ...]:
        """Returns the texts of the line, under `HEADINGS`."""
        measured = "-" if self.value is None else f"{self.value:.3g} {self.unit}"
        aims = [
            f"{word} {bound:g}" for word, bound in (("<=", self.at_most), (">=", self.at_least)) if bound is not None
        ]
        return self.what, measured, " and ".join(aims), self.verdict, self.details

    def record(self) -> dict[str, str | float | None]:
        """Returns the line for JSON."""
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "at_most": self.at_most,
            "at_least": self.at_least,
            "verdict": self.verdict,
            "details": self.details,
        }


def comma_separated(*facts: str) -> str:
    """Returns the facts that are not empty, in one line."""
    return ", ".join(fact for fact in facts if fact)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, str]:
    """Returns what numbers of speed depend on: processor, threads, load, versions, and the GPU if that computes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "processor": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "threads": f"{torch.get_num_threads()} of torch",
        "load before": f"{os.getloadavg()[0]:.2f} processes",
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
    }
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        facts["device"] = f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    return facts


def print_report(machine: dict[str, str], rows: Sequence[Row]) -> None:
    """Prints the machine and the table; drawn with rich where that is installed, else as plain text."""
    for name, fact in machine.items():
        print(f"{name}: {fact}")
    if importlib.util.find_spec("rich") is not None:
        _print_rich(rows)
    else:
        print(plain_table(rows))


def _print_rich(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    colours = {"met": "green", "missed": "red", "not measured": "yellow", "": None}
    table = Table(*HEADINGS)
    for row in rows:
        what, measured, aim, verdict, details = row.cells()
        colour = colours[verdict]
        table.add_row(what, measured, aim, f"[{colour}]{verdict}[/{colour}]" if colour else "", details)
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


def plain_table(rows: Sequence[Row]) -> str:
    """Returns the table as text; every column is as wide as its widest cell."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown(machine: dict[str, str], rows: Sequence[Row]) -> str:
    """Returns machine and table in the form that `docs/performance.md` holds."""
    facts = "\n".join(f"- {name}: {fact}" for name, fact in machine.items())
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(row.cells() for row in rows)]
    return facts + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
