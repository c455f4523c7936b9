"""Presets of datasets in folders of the user's: `SOFTGRPO_PRESETS`, and `presets` in the working directory."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import reduce
from pathlib import Path
from typing import Any

from softgrpo.errors import ConfigError
from softgrpo.presets.settings_file import merge, read_settings

VARIABLE, FOLDER = "SOFTGRPO_PRESETS", "presets"
SUFFIXES = (".yaml", ".yml")


def preset_folders() -> list[Path]:
    """Returns the folders of the user's that may hold presets."""
    named = os.environ.get(VARIABLE)
    folders = [Path(named)] if named else []
    if named and not folders[0].is_dir():
        raise ConfigError(
            f"{VARIABLE}={named}",
            "It must be a folder with files DATASET.yaml",
            "Correct or unset it",
            code="CONFIG-112",
        )
    usual = Path(FOLDER)
    return folders + ([usual] if usual.is_dir() and not any(usual.samefile(folder) for folder in folders) else [])


def own_names() -> tuple[str, ...]:
    """Returns the datasets that a preset of the user's has the name of."""
    found = {file.stem for folder in preset_folders() for file in folder.iterdir() if file.suffix in SUFFIXES}
    return tuple(sorted(found))


def own_preset(dataset: str, packaged: Collection[str]) -> dict[str, Any]:
    """Returns the preset of a dataset from the user's folders, by section and setting; {} where there is none.

    Args:
        dataset: Its name.
        packaged: The names of the presets that come with this package.

    Raises:
        ConfigError: Two presets have that name, or the file is no file of settings.
    """
    paths = [folder / f"{dataset}{suffix}" for folder in preset_folders() for suffix in SUFFIXES]
    files = [path for path in paths if path.is_file()]
    if not files:
        return {}
    if len(files) > 1 or dataset in packaged:
        places = [str(file) for file in files] + (["the one of this package"] if dataset in packaged else [])
        raise ConfigError(
            f"presets of the dataset '{dataset}': {' and '.join(places)}",
            "A dataset has one preset",
            "Rename or remove one; settings that are laid on a preset are given with --config FILE",
            code="CONFIG-113",
        )
    nothing: dict[str, Any] = {}
    nested = [
        reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)
        for path, value in read_settings(files[0], dataset, None).items()
    ]
    return reduce(merge, nested, nothing)
