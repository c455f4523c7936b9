"""The list of runs: those of this project, whatever else is in their experiments."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from softgrpo.tasks.tracking.connection import EXPERIMENTS, Tracking
from softgrpo.tasks.tracking.listing import list_pipelines


def test_runs_that_somebody_else_made_are_left_out(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment(f"{EXPERIMENTS}shop", artifact_location=str(tmp_path))
    own = client.create_run(experiment, tags={"stage": "pipeline", "seed": "7"}, run_name="own")
    client.create_run(experiment, tags={"stage": "pipeline"}, run_name="of an earlier version")
    found = list_pipelines(Tracking(client, uri, experiment), 10)
    assert [(each["run_id"], each["seed"]) for each in found] == [(own.info.run_id, 7)]
