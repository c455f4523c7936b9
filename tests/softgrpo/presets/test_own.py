"""Presets in folders of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from softgrpo.errors import ConfigError
from softgrpo.presets import dataset_names, resolve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a working directory with a folder `presets`, which has a preset of the dataset kiosk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOFTGRPO_PRESETS", raising=False)
    presets = tmp_path / "presets"
    presets.mkdir()
    (presets / "kiosk.yaml").write_text("data:\n  user_field: buyer\nfusion.k: 7\nrecall: {recallers: [Pop, BPR]}\n")
    return presets


def test_a_preset_of_ones_own_lies_below_the_size_and_the_flags(folder: Path) -> None:
    assert "kiosk" in dataset_names()
    config = resolve("kiosk", "tiny", overrides={"recall.recallers": ["Pop", "EASE"]})
    assert (config.data.user_field, config.fusion.k, config.recall.recallers) == ("buyer", 7, ("Pop", "EASE"))
    assert resolve("other", "tiny").fusion.k == 10


def test_the_folder_of_the_variable_comes_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "named"
    named.mkdir()
    monkeypatch.setenv("SOFTGRPO_PRESETS", str(named))
    (named / "stall.yml").write_text("fusion: {k: 3}\n")
    assert resolve("stall", "tiny").fusion.k == 3 and resolve("kiosk", "tiny").fusion.k == 7
    (named / "kiosk.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"named/kiosk.yaml and presets/kiosk.yaml.*has one preset.*\[CONFIG-113\]"):
        resolve("kiosk", "tiny")
    monkeypatch.setenv("SOFTGRPO_PRESETS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"SOFTGRPO_PRESETS=.*none.*\[CONFIG-112\]"):
        resolve("stall", "tiny")


def test_a_packaged_name_and_an_unknown_setting_are_refused(folder: Path) -> None:
    (folder / "ml-100k.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"ml-100k.yaml and the one of this package.*--config FILE.*\[CONFIG-113\]"):
        resolve("ml-100k", "tiny")
    (folder / "kiosk.yaml").write_text("seed: 1\nfusion:\n  kk: 3\n")
    with pytest.raises(ConfigError, match=r"kiosk.yaml, line 3: 'fusion.kk'.*\[CONFIG-111\]"):
        resolve("kiosk", "tiny")
