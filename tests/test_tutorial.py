"""The tutorial is followed, block by block, in an empty folder; every block of it and of the README is of a known kind."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from softgrpo.config import DataConfig
from softgrpo.data.locate import locate
from tests.test_docs import SHELLS, as_softgrpo, blocks, shell_lines
from tests.warm import run_warm

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial.md"
DEPLOYMENTS: dict[str, Any] = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text(encoding="utf-8"))
RUN_ID = re.compile(r"\b[0-9a-f]{32}\b")


def kind(words: list[str]) -> str:
    """Returns what a command of a document is, in one word; "" for one of an unknown kind."""
    if not words:
        return "comment"
    if words[0] == "softgrpo":
        return "softgrpo"
    if words[0] == "make" or shlex.join(words) == shlex.join(["eval", "$(make -s env)"]):
        return "make"
    if words[:3] == ["prefect", "deployment", "run"]:
        return "deployment"
    return "export" if words[0] == "export" else ""


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "README.zh-CN.md", TUTORIAL], ids=lambda path: path.name)
def test_every_block_is_of_a_kind_that_is_tested(path: Path) -> None:
    """The rest of the kinds is held by tests of their own: see the end of the tutorial."""
    for language, text in blocks(path):
        assert language in (*SHELLS, "python", "text"), text
        if language in SHELLS:
            assert [words for words in shell_lines(text) if not kind(words)] == []


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "README.zh-CN.md", TUTORIAL], ids=lambda path: path.name)
def test_deployments_and_their_parameters_exist(path: Path) -> None:
    lines = [words for language, text in blocks(path) if language in SHELLS for words in shell_lines(text)]
    for words in (words for words in lines if kind(words) == "deployment"):
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
        """Returns the shell's variables, with the command found as after the tutorial's `export`."""
        return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def command(self, words: list[str]) -> str:
        """Runs a command and returns what it printed; RUN stands for the latest runs."""
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
            for words in (words for words in shell_lines(text) if kind(words) == "softgrpo"):
                said[shlex.join(words)] = newcomer.command(words)

    first = "softgrpo run ml-100k debug tiny"
    assert stages_run(said[f"{first} --grpo.tau_gumbel 0.5"]) == "grpo, test"
    assert stages_run(newcomer.command(shlex.split(first))) == "none"
    loaded = next(printed for text, printed in said.items() if "load_model" in text)
    assert sum(json.loads(loaded.replace("'", '"')).values()) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "data/shop/shop.inter").read_text(encoding="utf-8").count("\n") > 50
    assert len(set(newcomer.runs)) == 5  # "", three runs, and the first one again
    ratings = (locate(DataConfig(dataset="ml-100k")) / "ml-100k.inter").read_text(encoding="utf-8")
    users = {line.split("\t")[0] for line in ratings.splitlines()[1:]}
    assert len({user for user in users if int(user) <= 50}) == 50
    layout = next(text for language, text in blocks(TUTORIAL) if language == "text")
    named = re.findall(r"^  ([\w.]+)/? ", layout, re.MULTILINE)
    assert len(named) == 3 and all((tmp_path / "outputs" / name).exists() for name in named)


def test_what_the_tutorial_runs_is_what_the_command_takes() -> None:
    commands = [words for language, text in blocks(TUTORIAL) if language in SHELLS for words in shell_lines(text)]
    ours = [words for words in commands if kind(words) == "softgrpo"]
    assert len(ours) >= 5
    assert [words for words in ours if as_softgrpo(words) is None] == [["softgrpo", "compare", "RUN", "RUN"]]
