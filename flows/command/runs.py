"""`softgrpo runs`: the pipelines that an output folder or a server knows, the newest first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softgrpo.errors import ConfigError
from softgrpo.flows.command.common import Job, print_json
from softgrpo.flows.command.parser import Commands, Parser, add_json, add_output
from softgrpo.flows.runtime.environment import prepare_to_read
from softgrpo.flows.runtime.failures import OK

if TYPE_CHECKING:
    from rich.table import Table

    from softgrpo.tasks.tracking.listing import Listed

DIFFERING = ("changed settings", "seed", "size", "merge", "dataset", "recallers")
"""Columns in which the listed runs may differ. A narrow terminal does without them, the first one first, those last in which
the runs do differ."""


DESCRIPTION = """\
Lists the runs of pipelines that are stored, the newest first: the beginnings of their ids, which other commands take as RUN, when
they were started, their recallers and seeds, how they ended, and what SofT-GRPO multi got on the test windows."""


def add_parser(commands: Commands[Parser], words: Sequence[str]) -> None:
    """Adds the parser of this command."""
    usage = "softgrpo runs [--most N] [--json]"
    parser = commands.add_parser("runs", prog="softgrpo runs", description=DESCRIPTION, usage=usage)
    parser.add_argument("--most", type=int, default=20, metavar="N", help="how many at most (default 20)")
    add_json(parser)
    add_output(parser)


def newest_runs(output: Path, most: int) -> list[Listed]:
    """Returns runs of pipelines, the newest first.

    Args:
        output: Folder of MLflow's database unless the environment names another.
        most: How many at most.

    Raises:
        StoreError: No run is stored there, or MLflow does not answer.
    """
    prepare_to_read(output)
    from softgrpo.tasks.tracking.connection import connect
    from softgrpo.tasks.tracking.listing import list_pipelines

    return list_pipelines(connect(output), most)


def prepare(arguments: argparse.Namespace) -> Job:
    """Returns the list of stored runs.

    Raises:
        SoftGRPOError: There is none to be read.
    """
    if arguments.most < 1:
        raise ConfigError(
            f"--most {arguments.most}", "A list has at least one run", "Give a larger number", code="CONFIG-024"
        )
    runs = newest_runs(arguments.output, arguments.most)

    def job() -> int:
        if arguments.json:
            print_json(runs)
        elif runs:
            from softgrpo.flows.command.output import print_table

            table = as_table(runs)
            print_table(table, dispensable(table), "--json")
        else:
            print("No pipeline has run here yet: softgrpo run starts one")
        return OK

    return job


def as_table(runs: Sequence[Listed]) -> Table:
    """Returns the list of runs as a table; the NDCG of a debug run is marked."""
    from rich.table import Column, Table

    from softgrpo.flows.command.output import foreign
    from softgrpo.flows.results.comparison import short_ids

    whole: dict[str, Any] = {"no_wrap": True}
    number = whole | {"justify": "right"}
    table = Table(
        "name",
        Column("run", **whole),
        Column("started", **whole),
        "dataset",
        Column("size", **whole),
        "recallers",
        "merge",
        Column("seed", **number),
        "changed settings",
        Column("state", **whole),
        Column("SofT-GRPO multi", **number),
    )
    for run, label in zip(runs, short_ids([run["run_id"] for run in runs]), strict=True):
        earned = [] if run["ndcg"] is None else [f"NDCG@{run['k']} {run['ndcg']:.4f}"]
        texts = (
            run["name"],
            label,
            run["started"][:16].replace("T", " "),
            run["dataset"],
            run["size"],
            ", ".join(run["recallers"]),
            run["merge"],
            str(run["seed"]),
            run["changed"],
            run["status"].lower(),
            " ".join([*earned, *(["(debug)"] if run["debug"] else [])]),
        )
        table.add_row(*map(foreign, texts))
    return table


def dispensable(table: Table) -> list[str]:
    """Returns the columns that a narrow terminal does without, the first one first."""
    differing = {
        str(column.header): len(set(map(str, column.cells))) > 1
        for column in table.columns
        if column.header in DIFFERING
    }
    alike = [name for name in DIFFERING if not differing[name]]
    return [*alike, "started", *(name for name in DIFFERING if differing[name])]
