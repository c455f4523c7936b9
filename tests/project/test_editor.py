"""VS Code: the files are well-formed, each configuration is a command that the command line takes, and each really runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import softgrpo.flows.cli as cli
from softgrpo.config import DataConfig, ExperimentConfig
from softgrpo.data.locate import locate
from softgrpo.flows.command.common import Job
from softgrpo.presets import resolve, size_names
from tests.documents.documented import documented
from tests.reliability.runs import free_port
from tests.support.warm import COMMAND, run_warm

ROOT = Path(__file__).parents[2]
NAMES = [
    "SofT-GRPO: Generate SFT Data (ml-1m)",
    "SofT-GRPO: SFT Training (ml-1m)",
    "SofT-GRPO: GRPO Training (ml-1m)",
    "SofT-GRPO: Test Model (ml-1m)",
    "SofT-GRPO: Full Pipeline (steam)",
    "Standalone SofT-GRPO",
    "SofT-GRPO: Debug Small Dataset",
    "SofT-GRPO: Hyperparameter Tuning",
    "SofT-GRPO: Multi-Recaller Experiment",
]


def read(name: str) -> dict[str, Any]:
    """Returns one of the editor's files; plain JSON, without comments."""
    values: dict[str, Any] = json.loads((ROOT / ".vscode" / name).read_text(encoding="utf-8"))
    return values


LAUNCH = read("launch.json")
CONFIGURATIONS = {each["name"]: each for each in LAUNCH["configurations"]}


def words(name: str, size: str = "tiny") -> list[str]:
    """Returns a configuration's command line, a size chosen."""
    return [word.replace("${input:size}", size) for word in CONFIGURATIONS[name]["args"]]


def test_the_configurations_have_their_original_names() -> None:
    assert [each["name"] for each in LAUNCH["configurations"]] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_starts_the_command_in_the_debugger(name: str) -> None:
    configuration = CONFIGURATIONS[name]
    assert (configuration["type"], configuration["request"]) == ("debugpy", "launch")
    assert configuration["module"] == "softgrpo.flows.cli"
    assert configuration["cwd"] == "${workspaceFolder}"
    assert not {"program", "python", "env"} & configuration.keys()  # the interpreter is the workspace's


def test_the_size_is_asked_for() -> None:
    (asked,) = LAUNCH["inputs"]
    assert asked["id"] == "size" and asked["default"] == "tiny"
    assert sorted(asked["options"]) == sorted(size_names())
    variables = set(re.findall(r"\$\{([^}]+)\}", json.dumps(LAUNCH)))
    assert variables == {"input:size", "workspaceFolder"}


def sized() -> Iterator[tuple[str, str]]:
    """Gives every configuration with every size it can be started with."""
    for name in NAMES:
        asks = "${input:size}" in CONFIGURATIONS[name]["args"]
        yield from ((name, size) for size in (size_names() if asks else ("tiny",)))


@pytest.mark.parametrize(("name", "size"), list(sized()))
def test_the_command_line_takes_it(name: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ExperimentConfig] = []

    def job(arguments: Any, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
        seen.append(config)
        return lambda: 0

    monkeypatch.setattr("softgrpo.flows.command.pipeline.pipeline_job", job)
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, *until: seen.append(config) or [])
    assert callable(cli.prepare(words(name, size)))
    assert all(config.policy.size == size for config in seen) and seen
    dataset = match[1] if (match := re.search(r"\((.+)\)", name)) else "ml-100k"
    assert seen[0].data.dataset == dataset


def test_the_stages_of_one_experiment_share_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ExperimentConfig]] = []

    def job(arguments: Any, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
        seen.append((until, config))
        return lambda: 0

    monkeypatch.setattr("softgrpo.flows.command.pipeline.pipeline_job", job)
    for name in NAMES[:4]:
        cli.prepare(words(name))
    assert [until for until, _ in seen] == ["data", "sft", "grpo", "test"]
    assert all(config == seen[0][1] for _, config in seen)


def test_tasks_are_commands_that_exist() -> None:
    tasks = {task["label"]: task for task in read("softgrpo.tasks.json")["tasks"]}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for task in tasks.values():
        program, *rest = task["command"].split()
        if program == "make":
            assert set(rest) <= targets
        else:
            assert program == ".venv/bin/softgrpo" and callable(cli.prepare(rest))
        assert task.get("dependsOn", task["label"]) in tasks


def test_tests_are_discovered_with_the_environment_of_make() -> None:
    settings = read("settings.json")
    assert settings["python.defaultInterpreterPath"] == "${workspaceFolder}/.venv/bin/python"
    assert settings["python.testing.pytestEnabled"] and not settings["python.testing.unittestEnabled"]
    assert settings["python.testing.pytestArgs"] == ["tests", "-m", "not slow"]
    recommended = read("extensions.json")["recommendations"]
    assert {"ms-python.python", "ms-python.debugpy"} <= set(recommended)
    assert settings["[python]"]["editor.defaultFormatter"] in recommended


# ---------------------------------------------------------------- each of them, run


def write_as(dataset: str, folder: Path, columns: dict[str, str]) -> None:
    """Writes ml-100k under another name and with other columns: the data sets themselves are not part of the repository."""
    source = locate(DataConfig(dataset="ml-100k"))
    for suffix in (".inter", ".item"):
        head, _, rest = (source / f"ml-100k{suffix}").read_text(encoding="utf-8").partition("\n")
        names = [
            f"{columns.get(f'{name}{suffix}', name)}:{kind}" for name, _, kind in map(_split, head.strip().split("\t"))
        ]
        target = folder / dataset / f"{dataset}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\t".join(names) + "\n" + rest, encoding="utf-8")


def _split(column: str) -> tuple[str, str, str]:
    return column.partition(":")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory whose folder `data` holds what the configurations name; all of them share its output folder."""
    folder = tmp_path_factory.mktemp("workspace")
    write_as("ml-1m", folder / "data", {"class.item": "genre"})
    steam = {
        "item_id.inter": "product_id",
        "item_id.item": "id",
        "movie_title.item": "app_name",
        "class.item": "genres",
    }
    write_as("steam", folder / "data", steam)
    shutil.copytree(locate(DataConfig(dataset="ml-100k")), folder / "data" / "ml-100k")
    return folder


def in_debug_size(command: list[str]) -> list[str]:
    """Returns a command line with the settings of the preset `debug` behind it, and with two pools or trials."""
    if "debug" in command:
        return command
    debug = yaml.safe_load((ROOT / "softgrpo/presets/debug.yaml").read_text(encoding="utf-8"))
    recallers = debug["recall"].pop("settings")
    dataset = command[command.index("--dataset") + 1] if "--dataset" in command else command[1]
    pool = resolve(dataset, "tiny").recall.recallers
    for section, values in debug.items():
        command += [word for key, value in values.items() for word in (f"--{section}.{key}", str(value).lower())]
    for recaller in set(pool) & set(recallers):
        command += [f"--recall.settings.{recaller}.epochs", str(recallers[recaller]["epochs"])]
    if "multi-recaller" in command:
        command += ["--pools", "BPR,SASRec", "BPR,ItemKNN"]
    return command + (["--trials", "2"] if "--trials" in command else [])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("editor")  # one workspace for all
@pytest.mark.parametrize("name", NAMES)
def test_each_configuration_runs_in_its_debug_size(name: str, workspace: Path, prefect_address: str) -> None:
    """The first one as the editor starts it: in the debugger, and with a Prefect server of its own."""
    module = CONFIGURATIONS[name]["module"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    if name == NAMES[0]:
        command = [sys.executable, "-m", "debugpy", "--listen", f"127.0.0.1:{free_port()}", "-m", module]
        command += in_debug_size(words(name))
        done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    else:
        code = COMMAND.replace("softgrpo.flows.cli", module)
        done = run_warm(in_debug_size(words(name)), workspace, environment | {"PREFECT_API_URL": prefect_address}, code)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = workspace / "outputs" / "stages"
    last = {"--gen_sft_data": "data", "--do_sft": "sft", "--do_grpo": "grpo"}.get(words(name)[1], "test")
    assert any(stages.glob(f"{last}-*.json"))
    if last == "test":
        assert "SofT-GRPO multi" in done.stdout
        assert all(len(pd.read_parquet(path)) for path in stages.glob("test-*/table.parquet"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("editor")
def test_the_readmes_run_with_named_data_and_recallers(workspace: Path, prefect_address: str) -> None:
    """In the same workspace, since one of the configurations has stored the same stages."""
    (line,) = documented("named")
    command = in_debug_size(shlex.split(line.replace("/my/data", str(workspace / "data")))[1:])
    done = run_warm(command, workspace, os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_address})
    assert done.returncode == 0, done.stdout + done.stderr
    assert any((workspace / "outputs/stages").glob("recall-LightGCN-*.json")) and "stages run" in done.stdout
