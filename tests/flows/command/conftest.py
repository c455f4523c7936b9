"""Recorders in the place of pipelines, and a stored run of tiny stages."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.flows.command.common import Job
from tests.flows.command.stored_run import run


class Captured:
    """What the pipeline would have been asked to do."""

    config: ExperimentConfig
    until: str
    standalone: bool


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Captured:
    """Puts a recorder in the place of the pipeline."""
    seen = Captured()

    def job(arguments: Any, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
        seen.config, seen.until, seen.standalone = config, until, standalone
        return lambda: 0

    monkeypatch.setattr("softgrpo.flows.command.pipeline.pipeline_job", job)
    return seen


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records what the flows of several pipelines would be called with, and what was checked before."""
    called: list[Any] = []
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config: called.append(config) or [])
    monkeypatch.setattr("softgrpo.flows.runtime.session.begin_prefect", lambda output: None)
    monkeypatch.setattr("softgrpo.flows.runtime.session.open_prefect", lambda output, debug: None)
    for show in ("tune.print_study", "ablate.print_compared", "multi_recaller.print_compared"):
        monkeypatch.setattr(f"softgrpo.flows.command.{show}", lambda result, output: None)
    for module, names in (("tune", ["tune_flow"]), ("variants", ["ablate_flow", "multi_recaller_flow"])):
        recorder = types.ModuleType(f"softgrpo.flows.{module}")
        for name in names:
            vars(recorder)[name] = lambda **parameters: called.append(parameters)
        monkeypatch.setitem(sys.modules, f"softgrpo.flows.{module}", recorder)
    return called


@pytest.fixture(scope="session")
def stored_run(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Path, str]:
    """Runs the stages once; output folder and id of the run."""
    folder = tmp_path_factory.mktemp("stored-run")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it in tests that store a model
        return folder, run(folder)


@pytest.fixture
def output(stored_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the output folder; nothing in it says where it lies."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copytree(stored_run[0], tmp_path / "out"))


@pytest.fixture
def run_id(stored_run: tuple[Path, str]) -> str:
    return stored_run[1]
