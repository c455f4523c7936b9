"""The runs of pipelines that MLflow knows, as they say of themselves. It needs no Prefect."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TypedDict

from mlflow.entities import Run

from softgrpo.evaluation import FOCUS
from tasks.tracking import EXPERIMENTS, Tracking, store_errors


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


def list_pipelines(tracking: Tracking, most: int) -> list[Listed]:
    """Returns runs of whole pipelines, of whatever dataset, the newest first.

    Args:
        tracking: An open connection.
        most: How many at most.

    Raises:
        StoreError: MLflow does not answer.
    """
    with store_errors(tracking.uri):
        experiments = tracking.client.search_experiments(filter_string=f"name LIKE '{EXPERIMENTS}%'")
        ids = [experiment.experiment_id for experiment in experiments]
        order = ["attributes.start_time DESC"]
        found = tracking.client.search_runs(ids, "tags.stage = 'pipeline'", max_results=most, order_by=order)
        return [_listed(run) for run in found]


def _listed(run: Run) -> Listed:
    settings: dict[str, str] = run.data.params  # one that was killed at its very beginning has none
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
