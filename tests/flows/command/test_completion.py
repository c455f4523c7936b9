"""Completion as a shell asks for it: in a process of its own, by environment variables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softgrpo.flows.cli import main
from softgrpo.presets import size_names

ROOT = Path(__file__).parents[3]


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
        [sys.executable, "-m", "softgrpo.flows.cli"],
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
        ("softgrpo re", {"report", "recommend", "refit"}),
        ("softgrpo run ml-1", {"ml-100k", "ml-1m"}),
        ("softgrpo run ml-100k gr", {"grpo"}),
        ("softgrpo tune ml-100k ", {"full", "debug"}),
        ("softgrpo run ml-100k full ", set(size_names())),
        ("softgrpo run ml-100k full tiny --fusion.m", {"--fusion.method", "--fusion.min_share", "--fusion.max_share"}),
        ("softgrpo run ml-100k full tiny --fusion.method ", {"auto", "score", "quota", "rrf"}),
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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "softgrpo" in capsys.readouterr().out


BASH = """
COMP_WORDS=(softgrpo run ml-100k gr); COMP_CWORD=3; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
$(complete -p softgrpo | sed 's/.*-F \\([^ ]*\\).*/\\1/') softgrpo
echo "${COMPREPLY[*]}"
"""
ZSH = "print -r -- $_comps[softgrpo]"
FISH = 'complete -C "softgrpo run ml-100k gr"'


@pytest.mark.parametrize(
    ("shell", "ask", "answer"),
    [("bash", BASH, "grpo"), ("zsh", ZSH, "_python_argcomplete"), ("fish", FISH, "grpo")],
)
def test_the_line_that_help_names_completes_in_that_shell(
    shell: str, ask: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = tmp_path / "softgrpo"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m softgrpo.flows.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    with pytest.raises(SystemExit):
        main(["completion", "--help"])
    shown = capsys.readouterr().out.splitlines()
    (line,) = [words.split(maxsplit=1)[1] for words in shown if f"softgrpo completion {shell}" in words]
    here = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [shell, "-c", f"{line}\n{ask}"],
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == [answer], done.stderr


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "Did you mean 'bash'" in capsys.readouterr().err
