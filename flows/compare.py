"""`softgrpo compare RUN RUN...`: several runs in one table, on the same test windows, with intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flows.environment import prepare
from softgrpo.config import EvaluationConfig
from softgrpo.errors import ConfigError
from softgrpo.evaluation.report import verdict
from softgrpo.evaluation.runs import EvaluatedRun, compare_runs

FOCUS = "grpo_multi"


@dataclass(frozen=True)
class ComparedRuns:
    """What a comparison gives.

    Attributes:
        table: See `softgrpo.evaluation.runs.compare_runs`.
        verdicts: One sentence for each run behind the first.
        k: Cut-off of the NDCG of the differences.
        link: Page of MLflow that compares the runs, None where no server shows one.
    """

    table: pd.DataFrame
    verdicts: tuple[str, ...]
    k: int
    link: str | None

    def as_record(self) -> dict[str, Any]:
        """Returns what a machine reads."""
        rows = json.loads(self.table.to_json(orient="records"))
        return {"k": self.k, "rows": rows, "verdicts": list(self.verdicts), "link": self.link}


def compare_stored_runs(run_ids: Sequence[str], output: Path) -> ComparedRuns:
    """Compares runs that reached the test stage; the first one holds the references, the cut-off and the bootstrap's settings.

    Args:
        run_ids: MLflow runs of pipelines, at least two.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.

    Raises:
        ConfigError: Fewer than two, one twice, an unknown one, or one that did not reach the test stage.
        DataError: They were not tested on the same windows.
        StoreError: MLflow does not answer, or files are gone.
    """
    if len(set(run_ids)) < max(2, len(run_ids)):
        raise ConfigError(f"runs {', '.join(run_ids)}", "A comparison takes two or more different runs", "Name others")
    prepare(output)
    from tasks.lineage import read_run, stage_runs
    from tasks.pipeline_run import open_store_of_run

    store = open_store_of_run(run_ids[0], output)
    pipelines = [read_run(store, run_id) for run_id in run_ids]
    names = Counter(run.info.run_name for run in pipelines)
    evaluated = []
    for run in pipelines:
        found = stage_runs(store, run) if "stage" in run.data.tags else {}
        if "test" not in found:
            raise ConfigError(
                f"run '{run.info.run_id}'", "It did not reach the stage test", "Name the run of a whole pipeline"
            )
        reference = store.fetch("test", read_run(store, found["test"]))
        unique = names[run.info.run_name] == 1
        name = run.info.run_name if unique else f"{run.info.run_name} {run.info.run_id[:6]}"
        evaluated.append(EvaluatedRun.read(name, store.local.payload(reference["key"])))
    params = pipelines[0].data.params
    k = int(params["fusion.k"])
    settings = EvaluationConfig(
        bootstrap=int(params["evaluation.bootstrap"]), confidence=float(params["evaluation.confidence"])
    )
    table = compare_runs(evaluated, FOCUS, f"ndcg@{k}", settings, int(params["seed"]))
    rows = {row["method"]: {str(name): value for name, value in row.items()} for row in table.to_dict("records")}
    verdicts = tuple(verdict(rows[f"{run.name}/{FOCUS}"], "vs_first", evaluated[0].name, k) for run in evaluated[1:])
    return ComparedRuns(table, verdicts, k, store.runs.tracking.comparison_link(run_ids))
