"""Presets: from a dataset's name, a size and what the user says to one frozen configuration.

Defaults < `datasets/<dataset>.yaml` < `sizes/<size>.yaml` < `debug.yaml` and `debug/<size>.yaml` (stage `debug` only) < overrides.
Mappings are merged key by key, an empty mapping empties the one below it, everything else is replaced. A dataset without a preset
gets settings that follow from the size of its data (`softgrpo.presets.derived`), and so do recallers that no
preset mentions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from importlib.resources import files
from typing import Any

import yaml
from pydantic import ValidationError

from softgrpo.common.names import TEXT
from softgrpo.config import ExperimentConfig
from softgrpo.data.kinds import named_data
from softgrpo.errors import ConfigError, nearest
from softgrpo.presets.bounds import check_bounds
from softgrpo.presets.own import own_names, own_preset
from softgrpo.presets.problems import as_config_error
from softgrpo.presets.settings import Setting, settings
from softgrpo.presets.settings_file import merge
from softgrpo.recallers.plugins import plugin_names
from softgrpo.recallers.registry import check_pool

__all__ = ["Setting", "dataset_names", "preset_config", "recall_files", "resolve", "settings", "size_names", "validate"]

DEBUG = "debug"


def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(file.name.removesuffix(".yaml") for file in (files(__package__) / folder).iterdir()))


def dataset_names() -> tuple[str, ...]:
    """Returns the datasets that have a preset, in this package or in a folder of the user's."""
    return tuple(sorted({*_names("datasets"), *own_names()}))


def size_names() -> tuple[str, ...]:
    """Returns the sizes of language models that have a preset."""
    return _names("sizes")


def _load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")) or {})


def _layers(overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns {"a.b": 1} as [{"a": {"b": 1}}], one mapping for each path and what lies below a path behind it.

    They are laid on the presets one by one: merged beforehand, {"a": {}} and {"a.b": 1} would no longer empty `a`.
    """

    def nested(path: str, value: Any) -> dict[str, Any]:
        return reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)

    return [nested(path, value) for path, value in sorted(overrides.items())]


def _for_pool(preset: dict[str, Any], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a preset without the settings of recallers that are not in the pool the run will have."""
    recall = preset.get("recall", {})
    merged = reduce(merge, layers, preset).get("recall", {})
    pool = merged.get("recallers", settings()["recall.recallers"].default) if isinstance(merged, Mapping) else None
    if not isinstance(pool, list | tuple):
        return preset  # the setting itself says what is wrong
    names = {"all", *map(str, pool)}
    kept = {name: value for name, value in recall.get("settings", {}).items() if name in names}
    return preset | {"recall": recall | {"settings": kept}}


def recall_files(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recallers from elsewhere that overrides by dotted path name: name -> file."""
    nothing: dict[str, Any] = {}
    recall = reduce(merge, _layers(overrides), nothing).get("recall")
    files = recall.get("files") if isinstance(recall, Mapping) else None
    return files if isinstance(files, Mapping) else {}


def _with_recbole_spelling(layer: dict[str, Any], files: Collection[str]) -> dict[str, Any]:
    """Returns one layer of what the user says, the recallers as RecBole writes them: one pool has one spelling and one key."""
    recall = layer.get("recall")
    names = recall.get("recallers") if isinstance(recall, dict) else None
    if not isinstance(recall, dict) or not isinstance(names, list | tuple):
        return layer
    return layer | {"recall": recall | {"recallers": check_pool([str(name) for name in names], files)}}


def validate(values: Mapping[str, Any], usual: ExperimentConfig | None = None) -> ExperimentConfig:
    """Returns the configuration that holds these values, and defaults elsewhere.

    Args:
        values: By section and setting.
        usual: The configuration whose values an error quotes; None quotes the defaults of all settings.

    Raises:
        ConfigError: A setting is unknown or has a wrong value; all problems are listed.
    """
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise as_config_error(error, usual) from error


def _preset(dataset: str, size: str, stage: str) -> dict[str, Any]:
    """Returns what the preset files say together; of the dataset one of this package, or one of the user's."""
    packaged = _names("datasets")
    names = [f"datasets/{dataset}"] if dataset in packaged else []
    names.append(f"sizes/{size}")
    if stage == DEBUG:
        names += [DEBUG, *([f"{DEBUG}/{size}"] if size in _names(DEBUG) else [])]
    return reduce(merge, map(_load, names), own_preset(dataset, packaged))


def _derived(config: ExperimentConfig, preset: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the settings that follow from the size of a configuration's data, none where the data are not here.

    What the configuration says of all recallers is left out: it would lose against settings of each.

    Args:
        config: The configuration without them.
        preset: Of the dataset. It decides all but the settings of the recallers that it does not mention. None: there is no preset.
    """
    from softgrpo.data.size import data_size, is_here  # pandas, for which `--help` need not wait
    from softgrpo.presets.derived import derived, is_trained

    recall = config.recall
    mentioned = {} if preset is None else preset.get("recall", {}).get("settings", {})
    names = [name for name in recall.recallers if name not in (TEXT, *recall.files, *plugin_names(), *mentioned)]
    if (preset is not None and not any(map(is_trained, names))) or not is_here(config.data):
        return {}
    follows = derived(data_size(config), names)
    stated = recall.settings.get("all", {})
    settings = {
        name: {key: value for key, value in own.items() if key not in stated}
        for name, own in follows["recall"]["settings"].items()
    }
    if preset is not None:
        return {"recall": {"settings": settings}}
    return follows | {"recall": follows["recall"] | {"settings": settings}}


def preset_config(dataset: str, size: str, stage: str = "full") -> ExperimentConfig:
    """Returns what the preset files of a dataset, a size and a stage say, without what follows from the size of the data.

    Args:
        dataset: Name of a dataset.
        size: One of `size_names()`.
        stage: `debug` adds the debug presets.
    """
    preset = _for_pool(_preset(dataset, size, stage), [])
    return validate(merge(preset, {"data": {"dataset": dataset}, "policy": {"size": size}}))


def resolve(
    dataset: str,
    size: str,
    stage: str = "full",
    overrides: Mapping[str, Any] | None = None,
    *,
    follow_data: bool = True,
) -> ExperimentConfig:
    """Returns the configuration of a run.

    Args:
        dataset: Name of a dataset, or its file or folder. One without a preset gets settings that follow from the size of its data,
            and so do recallers that its preset does not mention; where the data are not here they get the defaults, and
            `preflight` says what is missing.
        size: One of `size_names()`.
        stage: `debug` adds the debug presets; every other stage changes nothing.
        overrides: Values by dotted path, e.g. `{"grpo.top_p": 1.0, "recall.settings.SASRec.epochs": 3}`; an empty mapping
            drops what the presets have there, before paths below it are set.
        follow_data: Read the data for the settings that follow from their size.

    Raises:
        ConfigError: The size is unknown, or a setting is unknown, has a wrong value or one beyond the bounds.
        RecallerError: A recaller that the overrides name is unknown, or named twice.
        DataError: The files that settings follow from cannot be read.
    """
    if size not in size_names():
        raise ConfigError(
            f"Size '{size}'", "There is no preset of that size", nearest(size, size_names()), code="CONFIG-048"
        )
    named = {"data.dataset": dataset, "policy.size": size, **(overrides or {})}
    check_bounds(named)
    if isinstance(named["data.dataset"], str):
        named |= named_data(named["data.dataset"])
    dataset = named_data(dataset)["data.dataset"]
    layers = [_with_recbole_spelling(layer, recall_files(named)) for layer in _layers(named)]
    preset = _preset(dataset, size, stage)
    usual = preset_config(dataset, size, stage)
    config = validate(reduce(merge, layers, _for_pool(preset, layers)), usual)
    if stage == DEBUG or not follow_data:  # debug has settings for whatever data there are
        return config
    below = _derived(config, preset if dataset in _names("datasets") else None)
    return validate(reduce(merge, layers, _for_pool(merge(below, preset), layers)), usual) if below else config
