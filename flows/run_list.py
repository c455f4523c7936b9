"""`softgrpo runs`: the pipelines that an output folder or a server knows, the newest first."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from flows.environment import prepare_to_read
from flows.result_commands import print_json
from softgrpo.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from rich.table import Table

FOCUS = "grpo_multi"
DISPENSABLE = ("seed", "dataset", "started", "recallers")
"""Columns that a narrow terminal does without, the first one first."""
EVERYTHING = "--json"


class Listed(TypedDict):
    """One run of a pipeline.

    `ndcg` is that of SofT-GRPO multi on the test windows at the cut-off `k` of the run, null where it has not got so far.
    """

    run_id: str
    started: str
    name: str
    status: str
    dataset: str
    recallers: list[str]
    seed: int
    k: int
    ndcg: float | None


def listed(run: Run) -> Listed:
    """Returns what a run of a pipeline says of itself; a run that was killed at its very beginning lacks its settings."""
    settings: dict[str, str] = run.data.params
    k = int(settings.get("fusion.k", 0))
    return Listed(
        run_id=run.info.run_id,
        started=datetime.fromtimestamp(run.info.start_time / 1000).astimezone().isoformat(timespec="seconds"),
        name=str(run.info.run_name),
        status=run.info.status,
        dataset=settings.get("data.dataset", ""),
        recallers=json.loads(settings.get("recall.recallers", "[]")),
        seed=int(run.data.tags["seed"]),
        k=k,
        ndcg=run.data.metrics.get(f"ndcg_at_{k}/{FOCUS}"),
    )


def newest_runs(output: Path, most: int) -> list[Listed]:
    """Returns runs of pipelines, the newest first.

    Args:
        output: Folder of MLflow's database unless the environment names another.
        most: How many at most.

    Raises:
        StoreError: No run is stored there, or MLflow does not answer.
    """
    prepare_to_read(output)
    from tasks.lineage import newest_pipelines
    from tasks.tracking import connect

    return [listed(run) for run in newest_pipelines(connect(output), most)]


def runs_job(arguments: argparse.Namespace) -> Callable[[], int]:
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

            print_table(_as_table(found), DISPENSABLE, EVERYTHING)
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
