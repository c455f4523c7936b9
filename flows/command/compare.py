"""`softgrpo compare RUN RUN ...`: several stored runs in one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from softgrpo.common.text import visible
from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.destination import check_copy, check_overwrite
from softgrpo.flows.command.parser import Commands, Parser, add_json, add_output, add_overwrite
from softgrpo.flows.runtime.failures import OK

if TYPE_CHECKING:
    from softgrpo.flows.results.comparison import ComparedRuns

FILES = ("comparison.html", "comparison.parquet")

DESCRIPTION = """\
Puts runs of whole pipelines into one table: all rows of all runs, on the same test windows.

  RUN  id of the MLflow run of a pipeline, as `softgrpo run` prints it. The first run holds what others are compared with."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo compare RUN RUN ... [--seeds] [--to FOLDER [--overwrite]] [--json]"
    parser = commands.add_parser("compare", prog="softgrpo compare", description=DESCRIPTION, usage=usage)
    parser.add_argument("RUN", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument(
        "--seeds", action="store_true", help="the runs differ in their seeds alone: average them, with their spread"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write an HTML page and the table as Parquet there")
    add_json(parser)
    add_output(parser)
    add_overwrite(parser)


def prepare(arguments: argparse.Namespace) -> Job:
    """Checks the command line and returns the comparison of stored runs.

    Raises:
        SoftGRPOError: They cannot be compared; nothing was written.
    """
    from softgrpo.flows.results.comparison import average_stored_seeds, compare_stored_runs

    check_overwrite(arguments.to, overwrite=arguments.overwrite)
    if arguments.to is not None:
        check_copy(arguments.to, FILES, "comparison", overwrite=arguments.overwrite)
    read = average_stored_seeds if arguments.seeds else compare_stored_runs
    compared = read(arguments.RUN, arguments.output)

    def job() -> int:
        page = None if arguments.to is None else _write_comparison(compared, arguments.to, seeds=arguments.seeds)
        if arguments.json:
            print_json(replace(compared, page=page).as_record())
            return OK
        from softgrpo.flows.command.output import print_compared

        print(*(f"{run['label']}  {visible(run['name'])}" for run in compared.runs), sep="\n")
        print_compared(replace(compared, page=page), arguments.output)
        return OK

    return job


def _write_comparison(compared: ComparedRuns, folder: Path, *, seeds: bool) -> Path:
    """Writes the page and the table of a comparison into a folder that passed `check_copy`, and returns the page's path."""
    names = {run["label"]: f"{run['name']} ({run['run_id']})" for run in compared.runs}
    note = (
        "Seeds are averaged for each user; ± seeds is the standard deviation between seeds."
        if seeds
        else "Only SofT-GRPO of each run gets a p-value here, Holm-corrected; the others are tested in the report of their own run."
    )
    title = f"{len(names)} seeds, averaged" if seeds else f"{len(names)} runs compared"
    folder.mkdir(parents=True, exist_ok=True)
    page, table = (folder / name for name in FILES)
    page.write_text(compared.html(title, names, note), encoding="utf-8")
    compared.table.to_parquet(table, index=False)
    return page
