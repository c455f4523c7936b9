"""`softgrpo config`: the settings of a run for people and machines."""

from __future__ import annotations

import json

import pytest
import yaml

import softgrpo.flows.cli as cli
from softgrpo.presets import resolve, settings, validate


def test_config_prints_what_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "steam", "small", "--grpo.top_p", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert validate(yaml.safe_load(printed)) == resolve("steam", "small", overrides={"grpo.top_p": 0.5})
    assert all(setting.description in printed for setting in settings().values())


def test_config_lists_all_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--settings"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--{path} " in printed for path in settings())


def test_config_is_told_to_machines_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "steam", "small", "--grpo.top_p", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == list(settings()) and told["grpo.top_p"] == 0.5 and told["data.dataset"] == "steam"
    assert cli.main(["config", "--settings", "--json"]) == 0
    listed = {one["path"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(settings())
    assert (
        listed["fusion.method"]["choices"] == ["auto", "score", "quota", "rrf"]
        and listed["grpo.top_p"]["default"] == 1.0
    )
