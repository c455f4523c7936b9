"""What is special about a configuration: the settings in which it differs from the presets that it started from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softgrpo.config import ExperimentConfig, Section
from softgrpo.presets import DEBUG, preset_config, resolve
from softgrpo.presets.settings import value_of

SHOWN_APART = ("seed", "recall.recallers", "recall.files")
"""Settings that a run shows apart from the changed ones."""
WITHOUT_EFFECT = ("limits.stage_hours", "limits.memory_gb", "data.data_path", "data.source", "data.download")
"""Settings that change no number."""


@dataclass(frozen=True)
class Changes:
    """What a user changed.

    Attributes:
        debug: Whether the configuration started from the debug preset.
        settings: Changed settings by dotted path -> value as text, such as `grpo.top_p` -> `1.0`. The seed and the pool are left
            out, and so is what changes no number.
    """

    debug: bool
    settings: dict[str, str]


def difference(config: Section, base: Section, prefix: str = "") -> dict[str, Any]:
    """Returns the settings in which two configurations differ, by dotted path, as JSON-able data of the first."""
    changed: dict[str, Any] = {}
    plain = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value, other = dict(config)[name], dict(base)[name]
        if isinstance(value, Section):
            changed |= difference(value, other, f"{prefix}{name}.")
        elif value != other:
            changed[f"{prefix}{name}"] = plain[name]
    return changed


def find_changes(config: ExperimentConfig) -> Changes:
    """Compares a configuration with the presets of its dataset and size, and with the debug preset above them.

    Of the two, the configuration started from the one that it differs from in fewer settings.

    Args:
        config: The resolved configuration.
    """
    found = {stage: _changed(config, stage, _base(config, stage)) for stage in ("full", DEBUG)}
    debug = len(found[DEBUG]) < len(found["full"])
    return Changes(debug, found[DEBUG if debug else "full"])


def starting_point(config: ExperimentConfig) -> ExperimentConfig:
    """Returns the configuration that a user changed: the presets, and what follows from the same data for the same pool."""
    return _base(config, DEBUG if find_changes(config).debug else "full")


def _base(config: ExperimentConfig, stage: str) -> ExperimentConfig:
    """Returns the presets for the pool, the data and the split of a configuration, from which some settings may follow."""
    kept = {name: config.model_dump(mode="json")[name] for name in ("seed", "data", "split")}
    pool = {"recall.recallers": list(config.recall.recallers), "recall.files": dict(config.recall.files)}
    return resolve(config.data.dataset, config.policy.size, stage, kept | pool)


def _changed(config: ExperimentConfig, stage: str, base: ExperimentConfig) -> dict[str, str]:
    preset = preset_config(config.data.dataset, config.policy.size, stage)
    compared = base.model_copy(update={"data": preset.data, "split": preset.split})
    settings: dict[str, str] = {}
    for path, value in difference(config, compared).items():
        if path not in (*SHOWN_APART, *WITHOUT_EFFECT):
            settings |= _leaves(path, value, _at(compared, path))
    return settings


def _at(config: Section, path: str) -> Any:
    """Returns the value of a setting as JSON-able data."""
    value: Any = config.model_dump(mode="json")
    for name in path.split("."):
        value = value[name]
    return value


def _leaves(path: str, value: Any, before: Any) -> dict[str, str]:
    """Returns a changed value as text; of mappings only what differs inside them, `(preset dropped)` where nothing is left."""
    if not (isinstance(value, Mapping) and isinstance(before, Mapping)):
        return {path: value if isinstance(value, str) else json.dumps(value)}
    leaves: dict[str, str] = {}
    for name in sorted({*value, *before}):
        if name not in value:
            leaves[f"{path}.{name}"] = "(preset dropped)"
        elif name not in before or value[name] != before[name]:
            leaves |= _leaves(f"{path}.{name}", value[name], before.get(name, {}))
    return leaves


DERIVED = ("recall.targets_per_user", "train.max_train_windows", "train.max_valid_windows")
"""Settings that may follow from the size of the data (`softgrpo.presets.derived`), beside those of recallers."""


def as_overrides(config: ExperimentConfig) -> dict[str, Any]:
    """Returns what `resolve` has to be told, beside dataset and size, to give this configuration; JSON-able."""
    dataset, size = config.data.dataset, config.policy.size
    overrides = difference(config, resolve(dataset, size))
    if resolve(dataset, size, overrides=overrides) == config:
        return overrides
    # settings of recallers are merged with the preset's, or with what follows from data in a folder that `overrides` names
    recallers = config.recall.model_dump(mode="json")["settings"]
    exact = {"recall.settings": {}} | {f"recall.settings.{name}": values for name, values in recallers.items()}
    derived = {path: value_of(config, path) for path in DERIVED}
    return {path: value for path, value in overrides.items() if path != "recall.settings"} | exact | derived
