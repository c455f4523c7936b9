"""The door: settings in which configurations differ, environment, unwritable folders, console lines."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from flows.environment import check_writable, prepare
from flows.pipeline import difference
from flows.summary import table_markdown
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, StoreError
from softgrpo.presets import resolve

CHANGES: list[dict[str, Any]] = [
    {},
    {"seed": 7},
    {"sft.learning_rate": 1e-3, "evaluation.ks": [5, 10]},
    {"recall.recallers": ["BPR", "Pop"], "recall.settings": {"Pop": {}}, "data.data_path": "somewhere"},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("stage", ["full", "debug"])
def test_the_flow_resolves_the_same_configuration_again(changes: dict[str, Any], stage: str) -> None:
    base = resolve("ml-100k", "tiny", stage=stage)
    if "recall.settings" in changes:  # a preset's settings of recallers that are no longer in the pool would be refused
        changes = {**changes, "recall.recallers": [*base.recall.recallers, "Pop"]}
    config = resolve("ml-100k", "tiny", stage=stage, overrides=changes)
    again = resolve("ml-100k", "tiny", overrides=difference(config, resolve("ml-100k", "tiny")))
    assert again == config


def test_difference_is_empty_between_equals_and_names_what_differs() -> None:
    base = ExperimentConfig()
    other = base.model_copy(update={"sft": base.sft.model_copy(update={"learning_rate": 1e-3})})
    assert difference(base, base) == {}
    assert difference(other, base) == {"sft.learning_rate": 1e-3}


def test_prepare_sets_only_what_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"PREFECT_LOGGING_LEVEL": "DEBUG"})
    import os

    prepare(tmp_path / "new")
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "new" / "prefect")
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.setattr("os.environ", {"PREFECT_API_URL": "http://localhost:4200/api"})
    monkeypatch.setattr("flows.environment.check_answers", lambda uri, name: None)
    prepare(tmp_path)
    assert "PREFECT_HOME" not in os.environ


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        check_writable(tmp_path / "file" / "output")


def test_importing_the_door_loads_neither_prefect_nor_mlflow() -> None:
    code = "import sys, flows.pipeline; print(sorted({'prefect', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_console_drops_what_the_caller_hears_anyway() -> None:
    from flows.console import ForPeople

    def record(message: str, error: Exception | None = None) -> logging.LogRecord:
        info = (type(error), error, None) if error is not None else None
        return logging.LogRecord("prefect.flow_runs", logging.ERROR, __file__, 1, message, None, info)

    keeps = ForPeople().filter
    assert keeps(record("sft: running"))
    assert keeps(record("Encountered exception", ValueError("a bug")))
    assert not keeps(record("Encountered exception", ConfigError("a", "b", "c")))
    assert not keeps(record("Finished in state Completed()"))


def test_table_markdown_escapes_bars_and_rounds() -> None:
    table = pd.DataFrame({"method": ["a|b"], "ndcg@10": [0.123456], "windows": [3]})
    assert table_markdown(table) == "| method | ndcg@10 | windows |\n| --- | --- | --- |\n| a\\|b | 0.1235 | 3 |"


def test_the_deployment_names_a_flow_that_exists_and_parameters_it_takes() -> None:
    from flows.recipe import softgrpo_flow

    deployments = yaml.safe_load(Path("deployments/prefect.yaml").read_text(encoding="utf-8"))
    assert next(iter(deployments["pull"][0])) == "prefect.deployments.steps.set_working_directory"
    (full,) = deployments["deployments"]
    assert full["entrypoint"] == "flows/recipe.py:softgrpo_flow"
    assert softgrpo_flow.name == "softgrpo"
    assert softgrpo_flow.validate_parameters(full["parameters"])["dataset"] == "ml-100k"
