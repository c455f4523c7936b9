"""What `softgrpo run`, `standalone` and `pure` do: checked here before anything runs, then run, then told."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.command_line import REPEATABLE
from flows.doctor import is_writable
from flows.failures import OK
from flows.result_commands import Job, print_json
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, StoreError, nearest

if TYPE_CHECKING:
    from softgrpo.pipeline import RunResult


def check_stage(name: str, known: tuple[str, ...]) -> str:
    """Returns the name of a stage. `softgrpo.pipeline` checks it too, but takes seconds to import.

    Args:
        name: What was given.
        known: The stages that it may be.

    Raises:
        ConfigError: There is no such stage.
    """
    if name not in known:
        raise ConfigError(f"Stage '{name}'", "There is no such stage", nearest(name, known))
    return name


def check_output(output: Path) -> None:
    """Checks the output folder before anything is made.

    Args:
        output: Folder of all that is written.

    Raises:
        StoreError: It does not take new files, or cannot be made.
    """
    if not is_writable(output):
        raise StoreError(
            f"--output {output}",
            "It must be a folder that takes new files",
            "Name another folder, or give yourself the right to write",
        )


def run_record(result: RunResult, k: int) -> dict[str, Any]:
    """Returns what a machine reads of a run; k is the cut-off that the comparison is about."""
    rows = None if result.table is None else json.loads(result.table.to_json(orient="records"))
    folders = {name: str(folder) for name, folder in result.folders.items()}
    return {"k": k, "rows": rows, "folders": folders, "reused": list(result.reused), "links": dict(result.links)}


def announce(result: RunResult, k: int) -> None:
    """Prints the comparison and where things are; k is the cut-off that the comparison is about."""
    if result.table is not None:
        from flows.console import print_table
        from softgrpo.evaluation.words import render_terminal

        print_table(render_terminal(result.table, k))
    rows = dict(result.links)
    rows |= {f"{name} model": str(result.folders[name]) for name in ("sft", "grpo") if name in result.folders}
    rows["stages run"] = ", ".join(name for name in result.folders if name not in result.reused) or "none"
    rows["stages reused"] = ", ".join(result.reused) or "none"
    width = max(map(len, rows))
    for label, value in rows.items():
        print(f"{label:<{width}}  {value}")


def pipeline_job(arguments: argparse.Namespace, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
    """Returns the run of a checked configuration.

    Args:
        arguments: The parsed command line.
        config: The resolved configuration.
        until: Last stage wanted.
        standalone: Run without Prefect and MLflow.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.preflight import preflight

    force = tuple(check_stage(name, REPEATABLE) for name in arguments.force)
    check_output(arguments.output)
    from tasks.addresses import check_hands

    check_hands(arguments.parallel, arguments.dask)
    if standalone and (arguments.parallel or arguments.dask):
        raise ConfigError(
            "--parallel or --dask", "A standalone run is one process", "Leave it out, or run the stage full"
        )
    if standalone and arguments.from_run:
        raise ConfigError("--from-run", "A standalone run knows no MLflow", "Leave it out, or run the stage full")
    for note in preflight(config, until):
        print(f"note: {note}", file=sys.stderr)

    def job() -> int:
        if standalone:
            from flows.console import make_readable
            from softgrpo.pipeline import run_standalone

            make_readable(arguments.debug)
            result = run_standalone(config, until, force, arguments.output)
        else:
            from flows.pipeline import run_pipeline

            result = run_pipeline(
                config,
                until,
                force,
                arguments.output,
                arguments.from_run,
                arguments.debug,
                parallel=arguments.parallel,
                dask=arguments.dask,
            )
        if arguments.json:
            print_json(run_record(result, config.fusion.k))
        else:
            announce(result, config.fusion.k)
        return OK

    return job
