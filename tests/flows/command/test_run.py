"""`softgrpo run`: what its words mean, and what is checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import softgrpo.flows.cli as cli
from softgrpo.config import ExperimentConfig
from softgrpo.flows.cli import main
from softgrpo.pipeline.run import RunResult
from softgrpo.presets import resolve
from tests.flows.command.conftest import Captured


def test_flags_win_over_positions_with_their_presets(captured: Captured) -> None:
    cli.main(["run", "ml-100k", "full", "tiny", "--dataset", "steam", "--size", "small"])
    assert captured.config == resolve("steam", "small")


@pytest.mark.parametrize(
    ("stage", "until", "standalone"),
    [
        ("recall", "recall", False),
        ("data", "data", False),
        ("check", "check", False),
        ("gates", "gates", False),
        ("sft", "sft", False),
        ("grpo", "grpo", False),
        ("test", "test", False),
        ("full", "test", False),
        ("standalone", "test", True),
        ("debug", "test", False),
    ],
)
def test_stages_of_run(stage: str, until: str, standalone: bool, captured: Captured) -> None:
    cli.main(["run", "ml-100k", stage, "tiny"])
    assert (captured.until, captured.standalone) == (until, standalone)
    assert captured.config == resolve("ml-100k", "tiny", stage)


def test_a_run_hands_everything_to_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: [])

    def run(config: ExperimentConfig, until: str, force: tuple[str, ...], output: Path) -> RunResult:
        called.append((config, until, force, output))
        return RunResult(None, {}, ())

    monkeypatch.setattr("softgrpo.pipeline.run.run_standalone", run)
    monkeypatch.setattr("softgrpo.flows.runtime.console.make_readable", lambda debug: None)
    words = ["run", "ml-100k", "standalone", "tiny", "--force", "sft", "grpo", "--output", str(tmp_path)]
    assert cli.main(words) == 0
    assert called == [(resolve("ml-100k", "tiny"), "test", ("sft", "grpo"), tmp_path)]


def test_from_run_is_checked_before_anything_runs(
    run_id: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: pytest.fail("it came too late"))
    before = sorted(output.rglob("*"))
    for source, message in (("nobody", "MLflow has no such run"), (run_id[:6], "The stages of a run can be used with")):
        words = ["run", "ml-100k", "grpo", "tiny", "--from-run", source, "--output", str(output)]
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert sorted(output.rglob("*")) == before
