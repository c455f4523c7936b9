"""`softgrpo init` and `--config`: files of settings that are written, layered and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import softgrpo.flows.cli as cli
from softgrpo.presets import settings
from softgrpo.presets.settings_file import read_layer
from tests.softgrpo.data.forms import FORMS


def values(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Returns the settings that a command line resolves to."""
    assert cli.main(["config", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_file_for_ones_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the data need is set, all else is a comment; without the '#' a setting counts, where it stands."""
    monkeypatch.chdir(tmp_path)
    FORMS["tsv"](Path("own"))
    assert cli.main(["init", "own/shop.tsv", "--fusion.k", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "softgrpo run own/shop.tsv full tiny --config shop.yaml"
    fields = {"data.user_field": "customer_id", "data.item_field": "product_id", "data.time_field": "ts"}
    assert read_layer(Path("shop.yaml")) == fields | {"fusion.k": 5}
    text = Path("shop.yaml").read_text()
    shown = [
        setting
        for path, setting in settings().items()
        if path not in ("policy.size", "data.dataset", "data.data_path", "data.source")
    ]
    assert all(setting.description in text for setting in shown)
    every = "\n".join(
        line.replace("#", "", 1) if "# " not in line[: line.find("#") + 2] else line for line in text.splitlines()
    )
    assert sum(len(part) if isinstance(part, dict) else 1 for part in yaml.safe_load(every).values()) == len(shown)
    assert cli.main(["init", "own/shop.tsv"]) == 2  # it is there
    assert "--overwrite" in capsys.readouterr().err


def test_files_are_laid_on_each_other_and_flags_on_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("fusion: {k: 5}\nseed: 1\nsft: {learning_rate: 1e-3}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\nrecall: {settings: {SASRec: {epochs: 2, n_layers: 1}}}\n")
    words = ["ml-100k", "tiny", "--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    found = values(capsys, *words, "--recall.settings.SASRec.epochs", "3", "--fusion.k", "9")
    assert (found["fusion.k"], found["seed"], found["sft.learning_rate"]) == (9, 2, 0.001)
    assert found["recall.settings"]["SASRec"]["epochs"] == 3 and found["recall.settings"]["SASRec"]["n_layers"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fusion:\n  kay: 5\n", "a.yaml, line 2: 'fusion.kay'"),
        ("fusion: [\n", "a.yaml, line 2 ("),
        ("data: {dataset: steam}\n", "with data.dataset = steam"),
        ("fusion: {k: many}\n", "fusion.k = many"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert cli.main(["config", "ml-100k", "tiny", "--config", str(tmp_path / "a.yaml")]) == 2
    assert message in capsys.readouterr().err
