"""`softgrpo runs`: the pipelines that an output folder or a server knows, the newest first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.environment import prepare_to_read
from flows.result_commands import Job, print_json
from softgrpo.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.listing import Listed

DISPENSABLE = ("seed", "dataset", "started", "recallers")
"""Columns that a narrow terminal does without, the first one first."""


def newest_runs(output: Path, most: int) -> list[Listed]:
    """Returns runs of pipelines, the newest first.

    Args:
        output: Folder of MLflow's database unless the environment names another.
        most: How many at most.

    Raises:
        StoreError: No run is stored there, or MLflow does not answer.
    """
    prepare_to_read(output)
    from tasks.listing import list_pipelines
    from tasks.tracking import connect

    return list_pipelines(connect(output), most)


def runs_job(arguments: argparse.Namespace) -> Job:
    """Returns the list of stored runs.

    Raises:
        SoftGRPOError: There is none to be read.
    """
    if arguments.most < 1:
        raise ConfigError(f"--most {arguments.most}", "A list has at least one run", "Give a larger number")
    found = newest_runs(arguments.output, arguments.most)

    def job() -> int:
        if arguments.json:
            print_json(found)
        elif found:
            from flows.tables import print_table

            print_table(_as_table(found), DISPENSABLE, "--json")
        else:
            print("No pipeline has run here yet: softgrpo run starts one")
        return 0

    return job


def _as_table(found: Sequence[Listed]) -> Table:
    from rich.table import Column, Table

    from flows.compare import short_ids
    from flows.tables import foreign

    whole: dict[str, Any] = {"no_wrap": True}
    number = whole | {"justify": "right"}
    words = ("name", Column("run", **whole), Column("started", **whole), "dataset", "recallers")
    table = Table(*words, Column("seed", **number), Column("state", **whole), Column("SofT-GRPO multi", **number))
    for run, label in zip(found, short_ids([run["run_id"] for run in found]), strict=True):
        started = run["started"][:16].replace("T", " ")
        earned = "" if run["ndcg"] is None else f"NDCG@{run['k']} {run['ndcg']:.4f}"
        known = (run["name"], label, started, run["dataset"], ", ".join(run["recallers"]))
        texts = (*known, str(run["seed"]), run["status"].lower(), earned)
        table.add_row(*map(foreign, texts))
    return table
