"""A file of settings: what `softgrpo config` prints makes the same run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from softgrpo.errors import ConfigError
from softgrpo.flows.cli import main
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
        ("seed: [", r"no-such\.yaml, line 1 .*It must be a YAML file of settings"),
        ("seed: 1\nfusion:\n  k: 5\n  kk: {1: ]\n", r"no-such\.yaml, line 4 \(.*\[CONFIG-064\]"),
        (
            "seed: 1\nfusion:\n  k: 5\n  cutoff: 1\n",
            r"no-such\.yaml, line 4: 'fusion\.cutoff'\. There is no setting.*\[CONFIG-111\]",
        ),
        ("sft:\n  learning_rte: 1\n", r"line 2: 'sft\.learning_rte'.*Did you mean 'sft\.learning_rate'"),
        ("# one\n\ntop_p: 1\n", r"line 3: 'top_p'.*Did you mean 'grpo\.top_p'"),
        ("grpo: 1\n", r"line 1: 'grpo'.*'grpo' is a section"),
        ("seed: 1\nsft: {}\nseed: 2\n", r"line 3: 'seed' is in line 1 already.*\[CONFIG-110\]"),
        (None, r"no-such\.yaml \(No such file or directory\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "no-such.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_settings(file, "ml-1m", "tiny")


def test_a_later_file_wins_and_mappings_are_merged(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{number}.yaml" for number in range(3))
    one.write_text("seed: 1\nfusion: {k: 5}\nrecall:\n  settings: {BPR: {epochs: 1, n_layers: 2}, EASE: {a: 1}}\n")
    two.write_text("fusion:\n  k: 7\nsplit:\n  # method: ratio\nrecall: {settings: {BPR: {epochs: 3}}}\n")
    three.write_text("recall.settings: {}\n")
    assert read_settings([one, two], "any", "tiny") == {
        "seed": 1,
        "fusion.k": 7,
        "recall.settings": {"BPR": {"epochs": 3, "n_layers": 2}, "EASE": {"a": 1}},
    }
    assert read_settings([one, two, three], "any", "tiny")["recall.settings"] == {}


def test_the_dataset_of_a_file_may_be_that_of_a_path(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: {dataset: ratings}\nseed: 5\n")
    assert read_settings(file, "elsewhere/ratings.csv.gz", "tiny") == {"seed": 5}
    assert read_settings(file, None, None) == {"data.dataset": "ratings", "seed": 5}
