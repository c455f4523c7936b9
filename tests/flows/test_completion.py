"""Completion as a shell asks for it: in a process of its own, by environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from softgrpo.presets import size_names


def completed(line: str, folder: Path) -> set[str]:
    """Returns what is offered at the end of a line that is being typed."""
    answer = folder / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
    }
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli"],
        env=os.environ | asked | {"IFS": "\013"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {word.strip() for word in answer.read_text(encoding="utf-8").split("\013") if word.strip()}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("softgrpo rec", {"recommend"}),
        ("softgrpo re", {"report", "recommend"}),
        ("softgrpo run ml-1", {"ml-100k", "ml-1m"}),
        ("softgrpo run ml-100k g", {"grpo"}),
        ("softgrpo tune ml-100k ", {"full", "debug"}),
        ("softgrpo run ml-100k full ", set(size_names())),
        ("softgrpo run ml-100k full tiny --fusion.m", {"--fusion.method"}),
        ("softgrpo run ml-100k full tiny --fusion.method ", {"score", "quota", "rrf"}),
        ("softgrpo run ml-100k full tiny --recbole_models BPR ItemK", {"ItemKNN"}),
        ("softgrpo run ml-100k full tiny --recall.settings.BPR.epochs 3 --tau", {"--tau-gumbel"}),
        ("softgrpo run ml-100k full tiny --force s", {"split", "sft"}),
        ("softgrpo completion z", {"zsh"}),
    ],
)
def test_what_is_offered(line: str, offered: set[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == offered


def test_an_open_quote_is_no_error(tmp_path: Path) -> None:
    assert completed("softgrpo run ml-100k full tiny --recall.settings '{SAS", tmp_path) is not None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", "powershell"])
def test_every_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "softgrpo" in capsys.readouterr().out


def test_the_script_is_good_bash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "Did you mean 'bash'" in capsys.readouterr().err
