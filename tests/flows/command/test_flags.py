"""Every flag has an effect: it changes its setting and no other, in each spelling and notation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import softgrpo.flows.cli as cli
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.flows.command.flags import ALIASES, overrides
from softgrpo.presets import Setting, resolve, settings
from tests.flows.command.conftest import Captured


def value_of(config: ExperimentConfig, path: str) -> Any:
    """Returns one setting."""
    values: Any = config.model_dump()
    for key in path.split("."):
        values = values[key]
    return values


def candidates(setting: Setting, current: Any) -> Iterator[Any]:
    """Gives values of a setting's types, some of which are legal."""
    yield from (word for word in setting.choices)
    if bool in setting.kinds:
        yield not current
    for kind in (int, float):
        if kind in setting.kinds:
            base = kind(current or 1)
            yield from (kind(base * 2), kind(base / 2), base + 1, base - 1, kind(5), (base + 1) / 2)
    if setting.path == "recall.recallers":
        yield ("EASE", "Pop")
    elif setting.path == "evaluation.baselines":
        yield ("stacking",)
    elif setting.path == "prompt.blocks":
        yield ("popularity",)
    elif setting.path == "evaluation.ks":
        yield (1, 3)
    elif tuple in setting.kinds:
        yield ("age", "gender")
    if setting.path == "recall.files":
        yield {"Mine": "mine.parquet"}
    elif setting.path in ("fusion.min_share", "fusion.max_share"):
        yield {"SASRec": 0.5}
    elif dict in setting.kinds:
        yield {"SASRec": {"epochs": 77}}
    if {str, Path} & setting.kinds and not setting.choices:
        yield "something-else"


def another_value(setting: Setting) -> Any:
    """Returns a legal value of a setting that a run of ml-100k tiny does not have."""
    current = value_of(resolve("ml-100k", "tiny"), setting.path)
    for candidate in candidates(setting, current):
        try:
            changed = value_of(resolve("ml-100k", "tiny", overrides={setting.path: candidate}), setting.path)
        except ConfigError:
            continue
        if changed != current:
            return candidate
    raise AssertionError(f"no other legal value found for {setting.path}")


def as_words(value: Any) -> list[str]:
    """Returns a value as it is typed."""
    if isinstance(value, dict):
        return [yaml.safe_dump(value, default_flow_style=True).strip()]
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def spellings() -> list[tuple[str, str]]:
    """Returns every spelling of every flag, with the setting it stands for."""
    pairs = [(path, path) for path in settings()] + list(ALIASES.items())
    return sorted({(f"--{spelling}", path) for name, path in pairs for spelling in (name, name.replace("_", "-"))})


@pytest.mark.parametrize(("flag", "path"), spellings())
def test_every_flag_changes_its_setting_and_no_other(flag: str, path: str, captured: Captured) -> None:
    value = another_value(settings()[path])
    assert cli.main(["run", "ml-100k", "full", "tiny", flag, *as_words(value)]) == 0
    selects_preset = {"data.dataset": {"dataset": value}, "policy.size": {"size": value}}.get(path, {})
    expected = resolve(
        selects_preset.get("dataset", "ml-100k"), selects_preset.get("size", "tiny"), overrides={path: value}
    )
    assert captured.config == expected
    assert captured.config != resolve("ml-100k", "tiny")


@pytest.mark.parametrize("alias", ALIASES)
def test_the_original_flags_have_their_names(alias: str) -> None:
    assert ALIASES[alias] in settings()


def test_a_switch_needs_no_value(captured: Captured) -> None:
    cli.main(["run", "ml-100k", "full", "tiny", "--bf16", "--seed", "7"])
    assert captured.config.train.bf16
    assert captured.config.seed == 7
    cli.main(["run", "ml-100k", "full", "tiny", "--prompt.titles", "false"])
    assert not captured.config.prompt.titles


@pytest.mark.parametrize(
    ("words", "bf16"),
    [
        ("run --bf16 ml-100k debug tiny", True),
        ("run ml-100k --train.bf16 debug tiny", True),
        ("run --bf16 false ml-100k debug tiny", False),
        ("run ml-100k debug --bf16 TRUE tiny", True),
        ("run ml-100k debug tiny --bf16=no", False),
    ],
)
def test_a_switch_may_stand_anywhere(words: str, bf16: bool, captured: Captured) -> None:
    assert cli.main(words.split()) == 0
    assert captured.config == resolve("ml-100k", "tiny", "debug", {"train.bf16": bf16})


@pytest.mark.parametrize(
    ("written", "number"), [("1e-3", 0.001), ("1E-3", 0.001), ("'0.5'", 0.5), ("2e+1", 20.0), (".1", 0.1), ("3", 3)]
)
def test_numbers_below_mappings_are_numbers_in_every_notation(written: str, number: float, captured: Captured) -> None:
    for words in (
        ["--recall.settings.SASRec.learning_rate", written],
        ["--recall.settings", f"SASRec: {{learning_rate: {written}}}"],
    ):
        assert cli.main(["run", "ml-100k", "full", "tiny", *words]) == 0
        found = captured.config.recall.settings["SASRec"]["learning_rate"]
        assert found == number and type(found) is type(number)


def test_numbers_in_lists_below_mappings_and_texts() -> None:
    words = ["run", "a", "full", "tiny", "--recall.settings.NeuMF.x", "[1e1, {a: 1e-1}, CE, null, true]"]
    assert overrides(cli.build_parser(words, ["run"]).parse_args(words)) == {
        "recall.settings.NeuMF.x": [10.0, {"a": 0.1}, "CE", None, True]
    }


def test_null_clears_a_setting(captured: Captured) -> None:
    cli.main(["run", "ml-100k", "debug", "tiny", "--data.max_users", "null", "--data.user_fields", "null"])
    assert captured.config.data.max_users is None
    assert captured.config.data.user_fields is None


def test_flags_reach_below_mappings(captured: Captured) -> None:
    words = ["--recall.settings.SASRec.epochs", "3", "--recall.settings.EASE.reg_weight=0.5"]
    cli.main(["run", "ml-100k", "full", "tiny", *words])
    assert captured.config.recall.settings["SASRec"]["epochs"] == 3
    assert captured.config.recall.settings["EASE"]["reg_weight"] == 0.5


def test_names_that_look_like_numbers_stay_names(captured: Captured) -> None:
    cli.main(["run", "2020", "full", "tiny", "--model_name", "no"])
    assert captured.config.data.dataset == "2020"
    assert captured.config.policy.model_name == "no"


def test_a_flag_given_twice_counts_as_it_stands_last() -> None:
    words = ["run", "a", "full", "tiny", "--top_p", "0.1", "--grpo.top-p", "0.2"]
    assert overrides(cli.build_parser(words, ["run"]).parse_args(words)) == {"grpo.top_p": "0.2"}
