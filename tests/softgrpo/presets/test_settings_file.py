"""A file of settings: what `softgrpo config` prints makes the same run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import main
from softgrpo.errors import ConfigError
from softgrpo.presets import resolve
from softgrpo.presets.settings_file import read_settings


def test_what_the_command_prints_makes_the_same_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--fusion.k", "20", "--recall.settings.BPR.epochs", "3", "--sft.learning_rate", "1e-4"]
    assert main(["config", "ml-1m", "mini", *words]) == 0
    file = tmp_path / "settings.yaml"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    overrides = {"fusion.k": 20, "recall.settings.BPR.epochs": 3, "sft.learning_rate": 1e-4}
    assert resolve("ml-1m", "mini", "full", read_settings(file, "ml-1m", "mini")) == resolve(
        "ml-1m", "mini", "full", overrides
    )


def test_sections_and_dotted_paths(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 3\nfusion: {k: 5}\nsft.learning_rate: 0.1\nrecall.settings: {all: {epochs: 1}}\n")
    assert read_settings(file, "any", "tiny") == {
        "seed": 3,
        "fusion.k": 5,
        "sft.learning_rate": 0.1,
        "recall.settings": {"all": {"epochs": 1}},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {dataset: steam}", r"with data\.dataset = steam.*Start the run with dataset steam"),
        ("policy: {size: large}", r"with policy\.size = large.*Start the run with size large"),
        ("- seed", "which holds no settings"),
        ("seed: [", "It must be a YAML file of settings"),
        (None, r"no-such\.yaml \(No such file or directory\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "no-such.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_settings(file, "ml-1m", "tiny")
