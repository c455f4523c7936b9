"""The tutorial is followed, block by block, in an empty folder; every block of the first pages is run by some test."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from softgrpo.config import DataConfig
from softgrpo.data.locate import locate
from tests.documents.documented import FOLLOWED, GROUPS, POLICIES, SERVING, TUTORIAL, documented, lines, lines_of
from tests.documents.line_numbers import definitions
from tests.documents.test_docs import DOCS, ROOT, SHELLS, blocks, shell_lines, spans
from tests.project.test_editor import write_as
from tests.support.warm import run_warm

DEPLOYMENTS: dict[str, Any] = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8"))
RUN_ID = re.compile(r"\b[0-9a-f]{32}\b")


@pytest.mark.parametrize("line", dict.fromkeys(lines()))
def test_every_line_is_run_by_one_test(line: str) -> None:
    found = [group for group, (pattern, _, _) in GROUPS.items() if re.fullmatch(pattern, line)]
    assert len(found) == 1


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_lines_and_the_test_that_runs_them(group: str) -> None:
    _, file, name = GROUPS[group]
    source = (ROOT / file).read_text(encoding="utf-8")
    assert documented(group) and name in definitions(source)
    assert f'documented("{group}")' in source or all(f'in_shell("{line}"' in source for line in documented(group))


def test_every_other_block_is_run_or_is_no_code() -> None:
    """The Python blocks of tutorial and serving are run below, all others in `tests/softgrpo/serving/test_pure_models.py`."""
    assert {language for path in FOLLOWED for language, _ in blocks(path)} <= {*SHELLS, "python", "text"}
    others = [path for path in (*FOLLOWED, POLICIES) if path not in (TUTORIAL, SERVING)]
    python = [text for path in others for language, text in blocks(path) if language == "python"]
    of_gates = [
        text for text in python if "outputs/stages/gates-" in text
    ]  # run in `tests/softgrpo/serving/test_answers.py`
    assert len(of_gates) == 1 and len(python) == 4
    assert all("outputs/pure_models/" in text for text in python if text not in of_gates)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_deployments_and_their_parameters_exist(path: Path) -> None:
    commands = [words for language, text in blocks(path) if language in SHELLS for words in shell_lines(text)]
    for words in (words for words in commands if words[:3] == ["prefect", "deployment", "run"]):
        flow, name = words[3].split("/")
        module, function = next(
            _entry(each) for each in DEPLOYMENTS["deployments"] if (_flow_name(each), each["name"]) == (flow, name)
        )
        parameters = inspect.signature(getattr(import_module(module), function)).parameters
        assert words[4::2] == ["-p"] * len(words[5::2])
        assert {given.partition("=")[0] for given in words[5::2]} <= set(parameters)


def _entry(deployment: dict[str, Any]) -> tuple[str, str]:
    """Returns the dotted module and the function of a deployment's flow."""
    module, _, function = str(deployment["entrypoint"]).partition(":")
    return module.removesuffix(".py").replace("/", "."), function


def _flow_name(deployment: dict[str, Any]) -> str:
    """Returns the name of a deployment's flow, from the flow's file."""
    module, function = _entry(deployment)
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8").partition(f"def {function}(")[0]
    return re.findall(r'@flow\(name="([\w-]+)"', source)[-1]


class Newcomer:
    """Somebody who does what a document says, in a folder that was empty.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, [""]

    def environment(self) -> dict[str, str]:
        """Returns the shell's variables, with the command found as after `make env`."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "BROWSER": "true"}  # a browser that shows nothing

    def command(self, line: str) -> str:
        """Runs a command and returns what it printed; RUN stands for the latest runs."""
        words = shlex.split(line)
        ids = iter(self.runs[-words.count("RUN") :])
        given = [next(ids) if word == "RUN" else word for word in words]
        if self.runs == [""]:
            done = subprocess.run(
                given, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False, timeout=800
            )
        else:  # the rest by what the installed command runs, in processes that have the libraries already
            done = run_warm(given[1:], self.folder, self.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        self.runs += [run for run in dict.fromkeys(RUN_ID.findall(done.stdout)) if words[1] == "run"][-1:]
        return done.stdout

    def python(self, source: str) -> str:
        """Runs a Python block in a process of its own and returns what it printed."""
        done = run_warm([], self.folder, self.environment(), source)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def stages_run(printed: str) -> str:
    """Returns what a run says it has run."""
    return next(
        line.removeprefix("stages run").strip() for line in printed.splitlines() if line.startswith("stages run")
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_can_be_followed(tmp_path: Path, prefect_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_address)
    newcomer, said = Newcomer(tmp_path), {}
    for language, text in blocks(TUTORIAL):
        if language == "python":
            said[text] = newcomer.python(text)
        elif language in SHELLS:
            said |= {line: newcomer.command(line) for line in lines_of(text) if line in documented("results")}
    for language, text in blocks(SERVING):  # it goes on with the files of the tutorial
        if language == "python":
            said[text] = newcomer.python(text.replace('"RUN"', f'"{newcomer.runs[-1]}"'))
        elif language in SHELLS:
            said |= {line: newcomer.command(line) for line in lines_of(text)}
    # and the commands of the other pages, on the run of the shop, whose customers are users 1 to 50
    said |= {line: newcomer.command(line) for line in documented("results") if line not in said}

    first = "softgrpo run ml-100k debug tiny"
    assert stages_run(said[f"{first} --grpo.tau_gumbel 0.5"]) == "grpo, test"
    assert stages_run(newcomer.command(first)) == "none"
    assert "2 users, 20 items" in said["softgrpo recommend RUN --users 7 42"]
    assert "51 users, 510 items" in said["softgrpo score RUN --history today.csv --out today.parquet"]
    visitor = pd.read_parquet(tmp_path / "today.parquet").query("user == 'visitor'")
    assert set(visitor["without"]) == {"BPR does not know the user"} and len(visitor) == 10
    answer = next(printed for text, printed in said.items() if "router.recommend" in text)
    assert "'rank': 3" in answer and "Which recaller serves this user best now?" in answer
    assert "SofT-GRPO multi" in said["softgrpo report RUN"]
    assert "finished after" in said["softgrpo watch"] and "/reports/" in said["softgrpo open RUN"]
    assert "learning_rate" in said["softgrpo config ml-100k tiny"]
    loaded = next(printed for text, printed in said.items() if "load_model" in text)
    assert sum(json.loads(loaded.replace("'", '"')).values()) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "data/shop/shop.inter").read_text(encoding="utf-8").count("\n") > 50
    assert len(set(newcomer.runs)) == 5  # "", three runs, and the first one again
    ratings = (locate(DataConfig(dataset="ml-100k")) / "ml-100k.inter").read_text(encoding="utf-8")
    users = {line.split("\t")[0] for line in ratings.splitlines()[1:]}
    assert len({user for user in users if int(user) <= 50}) == 50
    with closing(sqlite3.connect(tmp_path / "outputs/mlflow.db")) as database:
        stored = {name for (name,) in database.execute("select distinct key from latest_metrics")}
    assert len(metrics_named()) > 15 and metrics_named() <= stored
    layout = next(text for language, text in blocks(TUTORIAL) if language == "text")
    named = re.findall(r"^  ([\w.]+)/? ", layout, re.MULTILINE)
    assert len(named) == 4 and all((tmp_path / "outputs" / name).exists() for name in named)


def metrics_named() -> set[str]:
    """Returns the names in the documents that MLflow has for metrics."""
    found = (span for path in DOCS for span in spans(path))
    logged = (
        (ROOT / "docs/algorithm.md").read_text(encoding="utf-8").partition("## What is logged")[2].partition("## ")[0]
    )
    names = {name for name in found if re.fullmatch(r"[a-z]+(@|_at_)\d+/\w+|eval_ndcg\w*", name)}
    return names | set(re.findall(r"`(\w+)`", logged))


def test_without_the_hub_one_line_says_so(tmp_path: Path) -> None:
    write_as("ml-1m", tmp_path / "data", {"class.item": "genre"})
    (line,) = documented("hub")
    command = [sys.executable, "-m", "softgrpo.flows.cli", *shlex.split(line)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert "Qwen/Qwen2.5-0.5B-Instruct" in said
