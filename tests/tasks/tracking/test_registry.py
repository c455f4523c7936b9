"""The registry when two machines fill it at the same moment, and when one of them ended in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.tracking.connection import Tracking, open_tracking
from softgrpo.tasks.tracking.liveness import LivenessLocks
from softgrpo.tasks.tracking.registry import BEST, JUDGE, NDCG, WINDOWS, best_version, model_name, register
from softgrpo.tasks.tracking.runs import Runs
from softgrpo.tasks.tracking.store import ArtifactStore, Reference
from tests.reliability.runs import free_port

MACHINE = """
import sys, time
from pathlib import Path
from tests.tasks.tracking.test_registry import CONFIG, open_store, register_all
output, meeting, me = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
register_all(open_store(output).runs, sys.argv[4:], meeting, me)
"""
CONFIG = ExperimentConfig()


def version(number: int, ndcg: float, judge: str = "a", windows: float = 4.0) -> ModelVersion:
    from mlflow.entities.model_registry import ModelVersionTag

    tags = {NDCG: repr(ndcg), WINDOWS: repr(windows), JUDGE: judge}
    return ModelVersion("m", str(number), 0, tags=[ModelVersionTag(name, value) for name, value in tags.items()])


@pytest.mark.parametrize(
    ("versions", "best"),
    [
        ([], None),
        ([version(1, 0.2)], "1"),
        ([version(2, 0.3), version(1, 0.2)], "2"),
        ([version(1, 0.2), version(2, 0.2)], "1"),  # the first of equal ones
        ([version(9, 0.2), version(10, 0.1)], "9"),  # by number, not by text
        ([version(1, 0.9), version(2, 0.1, "b")], "2"),  # judged otherwise, on as many windows
        ([version(1, 0.9), version(2, 0.1, "b", windows=3.0)], "1"),
        ([version(1, 0.9), version(2, 0.1, "b"), version(3, 0.5)], "1"),  # back to the first judge
        ([version(1, 0.9), ModelVersion("m", "2", 0)], "1"),  # somebody else's
    ],
)
def test_the_best_version_follows_from_all_versions(versions: list[ModelVersion], best: str | None) -> None:
    found = best_version(versions)
    assert (None if found is None else found.version) == best


def open_store(output: Path) -> ArtifactStore:
    local = LocalStore(output / "stages")
    return ArtifactStore(Runs(open_tracking(output, "trial", local), LivenessLocks(output / "alive")), local)


def make_policy(tracking: Tracking, ndcg: float) -> str:
    """Makes a run with a model, as a finished training leaves it, and returns its id."""
    import mlflow

    run_id = str(tracking.client.create_run(tracking.experiment_id).info.run_id)
    mlflow.set_tracking_uri(tracking.uri)
    model = mlflow.create_external_model(name="sft", source_run_id=run_id, experiment_id=tracking.experiment_id)
    tracking.client.set_tag(run_id, "model_id", model.model_id)
    tracking.client.log_metric(run_id, "best_ndcg", ndcg)
    tracking.client.log_metric(run_id, "validation_windows", 4.0)
    return run_id


def register_all(runs: Runs, run_ids: list[str], meeting: Path, me: str) -> None:
    """Registers policies, each at the moment at which the other machine does."""
    for run_id in run_ids:
        (meeting / f"{run_id}-{me}").touch()
        while len(list(meeting.glob(f"{run_id}-*"))) < 2:
            time.sleep(0.001)
        register(runs, CONFIG, "sft", Reference(stage="sft", key="k", digest="d", run_id=run_id), "digest")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "files"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", *words, *stores]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0) as process,
    ):
        end = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{address}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                assert time.monotonic() < end and process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.3)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
        os.killpg(process.pid, 15)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_machines_register_the_same_policies_at_the_same_moment(server: str, tmp_path: Path) -> None:
    tracking = open_store(tmp_path / "here").runs.tracking
    run_ids = [make_policy(tracking, ndcg) for ndcg in (0.1, 0.2, 0.15, 0.4, 0.3, 0.35)]
    (tmp_path / "meeting").mkdir()
    machines = [
        subprocess.Popen([sys.executable, "-c", MACHINE, str(tmp_path / me), str(tmp_path / "meeting"), me, *run_ids])
        for me in ("a", "b")
    ]
    assert [machine.wait(timeout=200) for machine in machines] == [0, 0]
    client, name = MlflowClient(server), model_name(CONFIG, "sft")
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(found.run_id for found in versions) == sorted(run_ids)  # once each
    best = client.get_model_version_by_alias(name, BEST)
    assert best.run_id == run_ids[3]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_an_earlier_run_left_undone_is_done(server: str, tmp_path: Path) -> None:
    """It ended between a version and the alias; a run that reuses the policy puts it right."""
    runs = open_store(tmp_path / "here").runs
    low, high = make_policy(runs.tracking, 0.1), make_policy(runs.tracking, 0.2)
    for run_id in (low, high):
        reference = Reference(stage="sft", key="k", digest="d", run_id=run_id)
        name = register(runs, CONFIG, "sft", reference, "digest").name
    client = MlflowClient(server)
    client.delete_registered_model_alias(name, BEST)
    register(runs, CONFIG, "sft", Reference(stage="sft", key="k", digest="d", run_id=low), "digest")
    assert client.get_model_version_by_alias(name, BEST).run_id == high
    assert len(client.search_model_versions(f"name = '{name}'")) == 2
