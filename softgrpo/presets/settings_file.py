"""A file of settings, such as `softgrpo config` prints: from YAML to overrides by dotted path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from softgrpo.errors import ConfigError
from softgrpo.presets.settings import settings, shown

DECIDED_BEFORE = ("data.dataset", "policy.size")
"""A run is started for a dataset and a size, which choose its presets; a file may repeat them, but not change them."""


def read_settings(file: Path, dataset: str, size: str) -> dict[str, Any]:
    """Returns the settings of a YAML file by dotted path, without dataset and size. Whether they are legal, `resolve` checks.

    Args:
        file: Sections with their settings, as `softgrpo config` prints them; dotted paths are understood too.
        dataset: The dataset of the run.
        size: The size of the run.

    Raises:
        ConfigError: The file cannot be read, is not YAML, holds no settings, or is for another dataset or size.
    """
    rule = "It must be a YAML file of settings, as `softgrpo config DATASET SIZE` prints them"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(
            f"config = {file} ({reason})", rule, "Name another file, or correct this one", code="CONFIG-064"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"config = {file}, which holds no settings",
            rule,
            "Name another file, or correct this one",
            code="CONFIG-065",
        )
    values = _by_path({str(key): value for key, value in content.items()})
    for path, value in zip(DECIDED_BEFORE, (dataset, size), strict=True):
        if (in_file := values.pop(path, value)) != value:
            name = path.partition(".")[2]
            raise ConfigError(
                f"config = {file}, with {path} = {shown(in_file)}",
                f"The run is one of {name} {value}, and that chooses its presets",
                f"Start the run with {name} {shown(in_file)}, or take {path} out of the file",
                code="CONFIG-066",
            )
    return values


def _by_path(content: dict[str, Any]) -> dict[str, Any]:
    """Returns {"sft": {"learning_rate": 1}} as {"sft.learning_rate": 1}; a setting that is itself a mapping stays one."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key in settings() or not isinstance(value, dict):
            values[key] = value
        else:
            values |= {f"{key}.{name}": inner for name, inner in value.items()}
    return values
