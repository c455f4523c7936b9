"""The runs of pipelines that MLflow knows, as they say of themselves. It needs no Prefect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict

from mlflow.entities import Run

from softgrpo.evaluation.summary import FOCUS
from softgrpo.tasks.tracking.connection import EXPERIMENTS, Tracking, store_errors

NONE = "none"
"""What the tag `changed settings` says of a run that has the presets' settings."""


class Listed(TypedDict):
    """One run of a pipeline.

    `merge` is how lists are merged; `debug` says that the run is on a small subset of the data, so that its numbers mean nothing;
    `changed` are the settings that differ from the presets, "" where a run does not say. `ndcg` is that of SofT-GRPO multi on the
    test windows at the cut-off `k` of the run, null where it has not got so far.
    """

    run_id: str
    started: str
    name: str
    status: str
    dataset: str
    size: str
    recallers: list[str]
    merge: str
    seed: int
    debug: bool
    changed: str
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
        pipelines = "tags.stage = 'pipeline' and tags.seed LIKE '%'"  # not those that somebody else made
        found = tracking.client.search_runs(ids, pipelines, max_results=most, order_by=order)
        return [_listed(run) for run in found]


def _listed(run: Run) -> Listed:
    settings: dict[str, str] = run.data.params  # one that was killed at its very beginning has none
    k = int(settings.get("fusion.k", 0))
    changed = run.data.tags.get("changed settings", NONE)
    return Listed(
        run_id=run.info.run_id,
        started=datetime.fromtimestamp(run.info.start_time / 1000).astimezone().isoformat(timespec="seconds"),
        name=str(run.info.run_name),
        status=run.info.status,
        dataset=settings.get("data.dataset", ""),
        size=settings.get("policy.size", ""),
        recallers=json.loads(settings.get("recall.recallers", "[]")),
        merge=_merge(settings),
        seed=int(run.data.tags["seed"]),
        debug=run.data.tags.get("debug") == "true",
        changed="" if changed == NONE else changed,
        k=k,
        ndcg=run.data.metrics.get(f"ndcg_at_{k}/{FOCUS}"),
    )


def _merge(settings: Mapping[str, str]) -> str:
    """Returns how the lists of a run are merged, such as `rrf` or `score z_score`."""
    method = settings.get("fusion.method", "")
    return f"{method} {settings['fusion.normalisation']}" if method == "score" else method
