"""`softgrpo runs`: the newest first, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from softgrpo.flows.cli import main
from tests.flows.command.stored_run import METRICS


def test_the_runs_are_listed_the_newest_first(output: Path, run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.create_experiment("softgrpo/other", artifact_location="mlflow-artifacts:/stages")
    tags = {"stage": "pipeline", "seed": "7"}
    killed = client.create_run(experiment, tags=tags, run_name="killed at its start").info.run_id
    client.set_terminated(killed, "KILLED")
    client.create_run(client.create_experiment("of somebody else"), tags=tags)
    assert main(["runs", "--output", str(output), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["run_id"], first["status"], first["recallers"], first["seed"]) == (killed, "KILLED", [], 7)
    assert (second["run_id"], second["status"], second["recallers"]) == (run_id, "FINISHED", ["A", "B"])
    assert (second["dataset"], second["k"], second["ndcg"]) == ("shop", 5, METRICS["ndcg@5"])
    assert main(["runs", "--output", str(output), "--most", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and killed[:6] in lines[1] and "killed at its start" in lines[1]


def test_what_a_list_of_runs_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["runs", "--output", str(tmp_path)]) == 2
    assert "No run is stored there" in capsys.readouterr().err
    assert main(["runs", "--output", str(tmp_path), "--most", "0"]) == 2
    assert "--most 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
