"""Ablations by name: which settings vary, and the configuration of each variant. Stages that none touches are shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from softgrpo.config import ExperimentConfig, MergeMethod, Normalisation
from softgrpo.errors import ConfigError, nearest
from softgrpo.presets import resolve

REFERENCE = "as it is"
"""The run that the others are compared with."""

Variants = Mapping[str, Mapping[str, Any]]


def _each(setting: str, *values: Any) -> Variants:
    """Returns one variant for each value of a setting."""
    return {f"{setting.partition('.')[2]} {value}": {setting: value} for value in values}


def _without(**settings: str) -> Variants:
    """Returns one variant for each part that a setting switches off."""
    return {f"without {what.replace('_', ' ')}": {setting: False} for what, setting in settings.items()}


ABLATIONS: dict[str, Variants] = {
    "training": {
        "without SFT": {"sft.num_train_epochs": 0},
        "without SofT-GRPO": {"grpo.num_train_epochs": 0},
        "without both": {"sft.num_train_epochs": 0, "grpo.num_train_epochs": 0},
    },
    "prior": {"without static prior": {"policy.prior": "none"}},
    "merge": _each("fusion.method", *get_args(MergeMethod)),
    "normalisation": {
        f"score, {name}": {"fusion.method": "score", "fusion.normalisation": name} for name in get_args(Normalisation)
    },
    "ratio": _each("grpo.importance_ratio", "noise", "concrete"),
    "sampling": _each("grpo.sampling", "soft", "discrete"),
    "tau": _each("grpo.tau_gumbel", 0.3, 1.0, 2.0),
    "noise": {
        **_each("grpo.noise_scale", 0.1, 0.25, 0.5, 1.0),
        "independent noise": {"grpo.noise": "independent"},
        "as published": {"grpo.noise_scale": 1.0, "grpo.noise": "independent"},
    },
    "reward": {
        **_each("grpo.reward_k", 20, 50),
        "log probability": {"grpo.reward": "log_probability"},
    },
    "top_p": _each("grpo.top_p", 0.5, 0.9, 1.0),
    "generations": _each("grpo.num_generations", 4, 16, 64),
    "advantages": _each("grpo.scale_rewards", "group", "batch", "none"),
    "windows": _each("train.max_train_windows", 250, 500, 1000, 2000),
    "learning": {
        **_each("policy.prior", "none", "gate"),
        **_each("policy.numbers", "none", "head", "tokens"),
        **_each("grpo.noise_scale", 0.25, 1.0),
        **_each("grpo.reward_k", 50),
        **_each("grpo.num_generations", 4, 16, 64),
        **_each("train.max_train_windows", 500, 2000, 8000),
        **_each("split.cross_fit", 2),
        **_each("features.record", "off"),  # as with cross_fit, so that the two can be told apart
    },
    "prompt": {
        **_without(track_record="prompt.track_record", profile="prompt.user_fields", list_shape="prompt.list_shape"),
        **_without(overlap="prompt.overlap"),
        "without top items": {"prompt.top_items": 0},
        "without history": {"prompt.history_items": 0},
    },
    "features": {
        **_without(content="features.content", popularity="features.popularity"),
        **{f"with {name}": {f"features.{name}": True} for name in ("shape", "agreement", "pace", "user_vector")},
    },
    "history": _each("prompt.history_items", 0, 5, 10, 20),
}
"""Name -> variants: what people call each, and the settings that it changes."""


def check_ablation(name: str) -> str:
    """Returns the name of an ablation.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in ABLATIONS:
        raise ConfigError(
            f"Ablation '{name}'", "There is none of that name", nearest(name, ABLATIONS), code="CONFIG-049"
        )
    return name


def resolve_ablation(
    name: str, dataset: str, size: str, stage: str = "full", overrides: Mapping[str, Any] | None = None
) -> dict[str, ExperimentConfig]:
    """Returns the configuration of each variant by its name, that of the reference first.

    A variant that is the same as one before it, mostly the reference, is left out; and so is cross-fitting where the run rules it
    out, see `ExperimentConfig.can_cross_fit`.

    Args:
        name: One of `ABLATIONS`.
        dataset: Name of a dataset.
        size: Size of the language model.
        stage: `debug` adds the debug preset.
        overrides: Settings by dotted path, for all variants; what a variant changes is its own.

    Raises:
        ConfigError: The ablation, the size or a setting is wrong.
    """
    variants: Variants = {REFERENCE: {}, **ABLATIONS[check_ablation(name)]}
    configs: dict[str, ExperimentConfig] = {}
    for variant, changes in variants.items():
        if "split.cross_fit" in changes and not configs[REFERENCE].can_cross_fit:
            continue
        config = resolve(dataset, size, stage, {**(overrides or {}), **changes})
        if config not in configs.values():
            configs[variant] = config
    if len(configs) == 1:
        raise ConfigError(
            f"Ablation '{name}' with these settings",
            "Each of its variants is the same as the run without it, so there is nothing to compare",
            "Leave out the setting that it varies",
            code="CONFIG-050",
        )
    return configs
