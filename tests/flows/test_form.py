"""The fields of a deployment's form: each means a setting, and no setting is given twice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from softgrpo.errors import ConfigError, DataError
from softgrpo.flows.form import PATHS, FrequentSettings, check_dataset, gather_overrides
from softgrpo.presets import resolve, settings

FILLED: dict[str, Any] = {
    "k": 20,
    "merge_method": "score",
    "sft_epochs": 2.0,
    "sft_learning_rate": 1e-3,
    "grpo_epochs": 4.0,
    "grpo_learning_rate": 1e-4,
    "max_users": 77,
    "seed": 5,
}


def gather(overrides: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Returns what a form with these fields means."""
    empty: dict[str, Any] = {"frequent": None, "config": None, "data_path": None}
    return gather_overrides("ml-1m", "tiny", overrides, **empty | fields)


def test_every_field_sets_its_setting() -> None:
    assert FILLED.keys() == PATHS.keys() == FrequentSettings.model_fields.keys()
    config = resolve("ml-1m", "tiny", "full", gather(frequent=FrequentSettings(**FILLED)))
    assert (config.fusion.k, config.fusion.method, config.data.max_users, config.seed) == (20, "score", 77, 5)
    assert (config.sft.num_train_epochs, config.sft.learning_rate) == (2.0, 1e-3)
    assert (config.grpo.num_train_epochs, config.grpo.learning_rate) == (4.0, 1e-4)


def test_an_empty_form_changes_nothing() -> None:
    assert gather() == gather(frequent=FrequentSettings()) == {}


@pytest.mark.parametrize("field", ["k", "merge_method", "sft_epochs", "grpo_learning_rate", "max_users", "seed"])
def test_a_field_refuses_what_its_setting_refuses(field: str) -> None:
    with pytest.raises(ValidationError):
        FrequentSettings(**{field: -1})
    assert settings()[PATHS[field]].description in str(FrequentSettings.model_fields[field].description)


@pytest.mark.parametrize(
    ("fields", "path", "value", "message"),
    [
        ({"frequent": FrequentSettings(k=10)}, "fusion.k", 5, r"k = 10, and fusion\.k = 5 in overrides"),
        ({"data_path": Path("/a")}, "data.data_path", "/b", r"data_path = /a, and data\.data_path = /b in overrides"),
        ({"recallers": ["BPR"]}, "recall.recallers", ["Pop"], r"recallers = BPR, and recall\.recallers = Pop"),
    ],
)
def test_a_setting_that_is_given_twice_is_refused(fields: dict[str, Any], path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gather({path: value}, **fields)


def test_fields_and_overrides_come_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 1\nfusion: {k: 5, rrf_k: 30}\n", encoding="utf-8")
    assert gather({"seed": 2}, frequent=FrequentSettings(k=20), config=file) == {
        "seed": 2,
        "fusion.k": 20,
        "fusion.rrf_k": 30,
    }


def test_a_missing_dataset_names_the_folders_of_the_worker_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softgrpo.flows.form.deployment", SimpleNamespace(id="of a worker"))
    with pytest.raises(DataError) as refused:
        check_dataset(resolve("shop", "tiny", "full", {"data.data_path": str(tmp_path)}))
    message = str(refused.value)
    assert message.startswith(f"dataset 'shop' has no shop/shop.inter in {tmp_path}, where the worker looks.")
    assert message.count(str(tmp_path)) == 1 and "parameter data_path" in message and "SOFTGRPO_DATA=" in message
    gone = tmp_path / "gone"
    with pytest.raises(DataError, match=f"^data_path = {gone} is no folder on the worker"):
        check_dataset(resolve("shop", "tiny", "full", {"data.data_path": str(gone)}))
