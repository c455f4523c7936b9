"""The benchmark's command: `python -m benchmarks --device cpu --json FILE`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.against_trl import measure_against_trl
from benchmarks.estimates import measure_estimates
from benchmarks.listing import measure_listing
from benchmarks.memory import measure_memory
from benchmarks.merges import measure_merges
from benchmarks.merging import measure_merging
from benchmarks.models import LARGE, MINI, SMALL, TINY
from benchmarks.quiet import quieten
from benchmarks.reading import measure_reading
from benchmarks.recommending import measure_recommending
from benchmarks.report import Row, describe_machine, markdown, print_report
from benchmarks.reporting import measure_reporting
from benchmarks.share import measure_share
from benchmarks.speedups import measure_speedups
from benchmarks.steps import measure_steps
from benchmarks.throughput import measure_throughput
from benchmarks.window_inputs import measure_window_inputs

Section = Callable[[], Row | list[Row]]


def sections(device: torch.device) -> dict[str, Section]:
    """Returns what is measured on a device, by the name that `--only` takes."""
    if device.type == "cpu":
        return {
            "merge": partial(measure_merging, device),
            "memory": partial(measure_memory, TINY, device),
            "steps-tiny": partial(measure_steps, TINY, device),
            "steps-mini": partial(measure_steps, MINI, device, steps=4, warm_up=1),
            "share": partial(measure_share, TINY, device),
            "speedups-tiny": partial(measure_speedups, TINY, device),
            "speedups-mini": partial(measure_speedups, MINI, device),
            "inputs-tiny": partial(measure_window_inputs, replace(TINY, tokens=64), device),
            "inputs-mini": partial(measure_window_inputs, replace(MINI, tokens=256), device, rounds=3, warm_up=1),
            "trl": partial(measure_against_trl, MINI, device),
            "reading": measure_reading,
            "lists": measure_listing,
            "merges": measure_merges,
            "recommend": measure_recommending,
            "report": measure_reporting,
            "estimate": measure_estimates,
        }
    found: dict[str, Section] = {"merge": partial(measure_merging, device)}
    for shape in (SMALL, LARGE):
        found[f"throughput-{shape.name}"] = partial(measure_throughput, shape, device)
        found[f"memory-{shape.name}"] = partial(measure_memory, shape, device)
        found[f"speedups-{shape.name}"] = partial(measure_speedups, shape, device)
        found[f"inputs-{shape.name}"] = partial(measure_window_inputs, shape, device, rounds=20, warm_up=5)
        found[f"steps-{shape.name}"] = partial(measure_steps, shape, device, steps=20, warm_up=5)
    return found


def measured(section: Section, name: str) -> list[Row]:
    """Returns the lines of a section; where memory is too small for a model, one line that says so."""
    try:
        found = section()
    except torch.OutOfMemoryError as error:
        found = Row(name, None, "", details=str(error).splitlines()[0])
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found if isinstance(found, list) else [found]


def main(words: Sequence[str] | None = None) -> int:
    """Measures, prints the table, and returns 0 whatever was measured: a missed aim is a number and not an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine and rows to a file")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write both as docs/performance.md holds them"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure some of the lines only")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use: leave --device (DEVICE=) out, or install a torch for the GPU")
    quieten()
    device = torch.device(given.device)
    chosen = sections(device)
    if strangers := set(given.only or ()) - set(chosen):
        parser.error(f"--only knows {', '.join(chosen)} on {device.type}, and not {', '.join(sorted(strangers))}")
    machine, rows = describe_machine(device), []
    for name in given.only or chosen:
        print(f"measuring {name} ...", file=sys.stderr, end=" ", flush=True)
        start = time.perf_counter()
        rows += measured(chosen[name], name)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    print_report(machine, rows)
    if given.json is not None:
        record = {"machine": machine, "rows": [row.record() for row in rows]}
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if given.markdown is not None:
        given.markdown.write_text(markdown(machine, rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
