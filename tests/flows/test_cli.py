"""The command as a whole: help, exit codes, errors, streams."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import softgrpo.flows.cli as cli
from softgrpo.common.interruption import ENDING
from softgrpo.errors import StoreError, TrainingError
from softgrpo.flows.runtime.failures import SIGNALLED


@pytest.mark.parametrize(
    "command", [[], *([name] for name in cli.COMMANDS)], ids=lambda command: " ".join(command) or "none"
)
def test_help_reads_well(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith("usage: softgrpo")
    assert len(shown.splitlines()) < 100
    assert all(len(line) <= 130 for line in shown.splitlines())


@pytest.mark.parametrize(
    ("words", "received"),
    [(["nosuch", "debug", "tiny"], "dataset 'nosuch'"), (["ml-100k", "debug", "enormous"], "Size 'enormous'")],
)
def test_help_says_that_wrong_words_have_no_defaults(
    words: list[str], received: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *words, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"The command will refuse these words ({received}" in shown
    assert "no dataset in particular" in " ".join(shown.split())
    assert all(len(line) <= 130 for line in shown.splitlines())


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        (["--help"], []),
        (["--version"], []),
        (["doctor", "--help"], ["softgrpo.flows.command.doctor"]),
        (["tune", "--help"], ["softgrpo.flows.command.tune"]),
    ],
)
def test_only_the_module_of_the_command_is_imported(words: list[str], loaded: list[str]) -> None:
    heavy = ["torch", "pandas", "prefect", "mlflow", *([] if loaded else ["pydantic", "yaml"])]
    code = "import sys, softgrpo.flows.cli\ntry: softgrpo.flows.cli.main(sys.argv[1:])\n"
    code += f"finally: print(sorted({{*softgrpo.flows.cli.COMMANDS.values(), *{heavy}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(loaded)


def test_the_command_a_flag_belongs_to_is_named_whatever_module_it_is_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "ml-100k", "full", "tiny", "--trials", "3"]) == 2
    assert "It is a flag of `softgrpo tune`." in capsys.readouterr().err


def fail_with(error: BaseException) -> Any:
    """Returns a job's maker whose job raises an error."""

    def job() -> int:
        raise error

    return lambda *arguments, **options: job


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            TrainingError("loss is NaN", "a loss is a number", "Lower the learning rate", code="TRAINING-000"),
            1,
            "Lower the learning rate.",
        ),
        (OSError(28, "No space left on device"), 1, "no space is left on the disk. A stage counts"),
        (OSError(122, "Disk quota exceeded"), 1, "no space is left on the disk. A stage counts"),
        (PermissionError(13, "Permission denied", "x"), 1, "The system refused"),
        (ModuleNotFoundError("No module named 'a'", name="a.b"), 1, "package 'a' is not installed. Each part"),
        (ModuleNotFoundError("No module named 'softgrpo.x'", name="softgrpo.x"), 1, "unexpected error"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_while_running(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("softgrpo.flows.command.pipeline.pipeline_job", fail_with(error))
    assert cli.main(["run", "ml-100k", "full", "tiny"]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        "softgrpo.flows.command.pipeline.pipeline_job", fail_with(StoreError("a", "b", "c", code="STORE-000"))
    )
    assert cli.main(["run", "ml-100k", "full", "tiny", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_errors_in_the_code_itself_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "softgrpo.flows.command.pipeline.pipeline_job", fail_with(ZeroDivisionError("division\nby zero"))
    )
    assert cli.main(["run", "ml-100k", "full", "tiny"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("softgrpo: unexpected")
    assert ": ZeroDivisionError: division by zero. " in shown
    assert shown.endswith("--debug shows the traceback.\n")
    assert shown.count("\n") == 1  # no traceback
    assert cli.main(["run", "ml-100k", "full", "tiny", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_output_that_cannot_be_encoded_is_replaced(tmp_path: Path) -> None:
    code = "import sys; from softgrpo.flows.cli import _prepare_streams as f; f(as_json=False); print('\u0394 %'); "
    code += "from softgrpo.flows.command.common import print_json; print_json(['\u0394'])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    title, *rest = done.stdout.splitlines()
    assert title == "? %" and json.loads("".join(rest)) == ["\u0394"]


@pytest.mark.parametrize(
    ("flags", "terminal", "bars"), [([], False, False), ([], True, True), (["--json"], True, False)]
)
def test_bars_of_libraries_are_for_terminals(flags: list[str], terminal: bool, bars: bool) -> None:
    code = f"import sys; sys.stderr.isatty = lambda: {terminal}; from softgrpo.flows.cli import main; "
    code += "main(['config', *sys.argv[1:]]); from transformers.utils import logging; "
    code += "print('bars', logging.is_progress_bar_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"bars {bars}\n")


def test_the_table_of_exit_codes_is_the_codes() -> None:
    text = (Path(__file__).parents[2] / "docs/settings.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \|", text.split("## Exit codes")[1], re.MULTILINE)
    signalled = sorted(SIGNALLED + number for number in ENDING)
    assert [int(code) for code in table] == [cli.OK, cli.FAILED, cli.REFUSED, *signalled]
