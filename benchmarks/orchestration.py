"""What Prefect and MLflow cost: `python -m benchmarks.orchestration`. Unlike the rest of the benchmark it needs the whole package.

Runs of ml-100k, which is packaged in recbole, in processes of their own: a cold one and one without Prefect and MLflow, both in a
new folder, in an environment as `make install` leaves it; identical ones, ones that have nothing but the address of an MLflow
server; and the memory of both servers and the worker while idle.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch

from benchmarks.report import Row, describe_machine, markdown, print_report

ROOT = Path(__file__).parents[1]
REPEATS = 3
SETTLE_SECONDS = 30.0
MEGABYTE = 1e6
NO_BYTE_CODE = "PYTHONDONTWRITEBYTECODE"
"""Would have each run compile what it imports; the commands of the Makefile do not hear it either."""
SERVICES = {"mlflow": "MLflow", "worker": "worker", "server": "Prefect"}
"""A word of its command line, and its name."""

Spans = list[tuple[float, float]]


@dataclass(frozen=True)
class Timed:
    """Seconds of one run.

    Attributes:
        command: From the start of the process to its end.
        body: Inside the flow.
        stages: While a stage was at work: its own code, the digest of its files and their way into the local store.
    """

    command: float
    body: float
    stages: float

    @property
    def outside(self) -> float:
        """Seconds in which no stage was at work."""
        return self.command - self.stages


def timed(function: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    """Returns the function, noting when it began and when it ended."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spans.append((start, time.perf_counter()))

    return call


def covered(spans: Spans) -> float:
    """Returns the seconds in which at least one of the spans was open."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def run_here(stage: str, output: Path, *, bare: bool = False) -> dict[str, float]:
    """Runs the pipeline in this process as the command does, with a clock around the flow's body and around each stage.

    Args:
        stage: `full` or `debug`.
        output: Folder of all that is written.
        bare: Without Prefect and MLflow, as the command `softgrpo standalone` does.
    """
    from softgrpo.presets import resolve

    config = resolve("ml-100k", "tiny", stage)
    stages: Spans = []
    body: Spans = []
    if bare:
        import softgrpo.pipeline.run

        _clock(softgrpo.pipeline.run, "run_node", stages)
        timed(softgrpo.pipeline.run.run_standalone, body)(config, output=output)
    else:
        from softgrpo.flows.runtime.session import begin_prefect
        from softgrpo.flows.start import run_pipeline

        begin_prefect(output)
        import softgrpo.flows.pipeline
        import softgrpo.tasks.stage

        _clock(tasks.stage, "run_node", stages)
        _clock(flows.pipeline, "resolve", body)  # the body begins with it
        _clock(flows.pipeline, "execute", body)  # and ends with it
        run_pipeline(config, output=output)
    return {"body": body[-1][1] - body[0][0], "stages": covered(stages)}


def _clock(module: ModuleType, name: str, spans: Spans) -> None:
    vars(module)[name] = timed(vars(module)[name], spans)


def run_apart(stage: str, output: Path, environment: Mapping[str, str], *, bare: bool = False) -> Timed:
    """Runs the pipeline in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.orchestration", "--here", stage, str(output)]
    command += ["--bare"] if bare else []
    start = time.perf_counter()
    inherited = {name: value for name, value in os.environ.items() if name != NO_BYTE_CODE}
    done = subprocess.run(
        command, cwd=ROOT, env={**inherited, **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    spent = time.perf_counter() - start
    found = json.loads(done.stdout.splitlines()[-1])
    return Timed(spent, found["body"], found["stages"])


def free_port() -> str:
    """Returns a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def servers(output: Path) -> Iterator[dict[str, str]]:
    """Gives the addresses of both servers, started with their worker for an output folder."""
    from softgrpo.flows.services.control import find_services

    def order(word: str) -> None:
        command = [sys.executable, "-m", "softgrpo.flows.services.control", word, "--output", str(output)]
        ports = {"PREFECT_PORT": free_port(), "MLFLOW_PORT": free_port()}
        subprocess.run(command, cwd=ROOT, env={**os.environ, **ports}, stdout=subprocess.DEVNULL, check=True)

    order("start")
    try:
        yield find_services(output).addresses
    finally:
        order("stop")


def family(pid: int) -> list[int]:
    """Returns a process and all that descend from it."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for path in lists for child in path.read_text(encoding="utf-8").split()]
    return [pid, *(one for child in children for one in family(child))]


def memory_of(output: Path) -> dict[str, float]:
    """Returns the bytes of each service of an output folder: memory of its processes, what several share counted once."""
    supervisor = int((output / "services" / "supervisord.pid").read_text(encoding="utf-8"))
    found: dict[str, float] = {}
    for pid in family(supervisor)[1:]:
        words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
        name = next((name for word, name in SERVICES.items() if word in words), None)
        if name is None or name in found:  # a process of one that was counted
            continue
        rollups = (Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8").split() for one in family(pid))
        found[name] = 1024.0 * sum(int(words[words.index("Pss:") + 1]) for words in rollups)
    return found


def _reused(what: str, runs: list[Timed], at_most: float) -> Row:
    """Returns the line of runs that reuse everything."""
    assert all(run.stages == 0.0 for run in runs)
    bodies = [run.body for run in runs]
    commands = f"whole command {statistics.median(run.command for run in runs):.1f} s"
    details = f"bodies {', '.join(f'{body:.2f}' for body in bodies)} s; {commands}"
    return Row(what, statistics.median(bodies), "s", at_most=at_most, details=details)


def measure(stage: str, folder: Path) -> list[Row]:
    """Measures all lines.

    Args:
        stage: `full` or `debug`.
        folder: Empty folder for the runs.
    """
    home = folder / "home"
    cold = run_apart(stage, home, {})
    bare = run_apart(stage, folder / "bare", {}, bare=True)
    more = cold.outside - bare.outside
    both = (
        f"outside stages {cold.outside:.1f} s of {cold.command:.0f} s, {bare.outside:.1f} s without Prefect and MLflow"
    )
    rows = [
        Row(
            f"cold run ({stage}): share of Prefect and MLflow",
            100 * more / cold.command,
            "%",
            at_most=3 if stage == "full" else None,  # the aim is about the main job
            details=f"{more:.1f} s: {both}",
        ),
        _reused("identical run: body of the flow", [run_apart(stage, home, {}) for _ in range(REPEATS)], 1.0),
    ]
    with servers(home) as addresses:
        time.sleep(SETTLE_SECONDS)
        memory = memory_of(home)
        shares = ", ".join(f"{name} {size / MEGABYTE:.0f} MB" for name, size in sorted(memory.items()))
        servers_bytes = sum(size for name, size in memory.items() if name != "worker")
        rows.append(Row("memory of both servers, idle", servers_bytes / MEGABYTE, "MB", at_most=1000, details=shares))
        again = [run_apart(stage, home, addresses) for _ in range(REPEATS)]
        rows.append(_reused("identical run with servers: body of the flow", again, 1.0))
        mlflow = {"MLFLOW_TRACKING_URI": addresses["MLFLOW_TRACKING_URI"]}
        elsewhere = [run_apart(stage, folder / f"elsewhere-{turn}", mlflow) for turn in range(REPEATS)]
        rows.append(_reused("empty local folders, all from MLflow's server: body of the flow", elsewhere, 3.0))
    return rows


def main(words: list[str] | None = None) -> int:
    """Measures and prints the table, or with --here makes one of the runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__)
    parser.add_argument("--stage", choices=("full", "debug"), default="debug", help="what is run (default debug)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write machine and table to a file")
    parser.add_argument("--here", nargs=2, metavar=("STAGE", "OUTPUT"), help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.here is not None:
        print(json.dumps(run_here(given.here[0], Path(given.here[1]), bare=given.bare)))
        return 0
    machine = describe_machine(torch.device("cpu"))
    with TemporaryDirectory() as folder:
        rows = measure(given.stage, Path(folder))
    print_report(machine, rows)
    if given.markdown is not None:
        given.markdown.write_text(markdown(machine, rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
