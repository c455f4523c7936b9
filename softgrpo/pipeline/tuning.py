"""What `tune` searches, what makes two studies the same, and what it reads of a training. Optuna is in `flows/study.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softgrpo.common.digests import digest_json
from softgrpo.config import ExperimentConfig, GRPOConfig, Section
from softgrpo.errors import ConfigError
from softgrpo.pipeline.keys import stage_key
from softgrpo.policy.head_rate import head_rate
from softgrpo.presets import resolve
from softgrpo.reporting import BEST_METRIC
from softgrpo.stages.contract import Node

STAGE = "grpo"
DIGITS = 4  # of a setting that is tried: what is printed is what was run, to the last bit


class Range(Section):
    """Where values of one setting are looked for."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Equal factors are equally likely, not equal differences."""
    whole: bool = False
    """Whole numbers only."""


class SearchSpace(Section):
    """The settings of the section `grpo` that are tuned, each with its range."""

    learning_rate: Range = Range(low=1e-7, high=2e-4, log=True)
    """From what moves a model of a billion weights to what moves one of 22 million."""
    tau_gumbel: Range = Range(low=0.25, high=4.0, log=True)
    """From samples near one recaller to samples near equal weights."""
    top_p: Range = Range(low=0.5, high=1.0)
    """From the leading recallers alone to all of them."""
    epsilon: Range = Range(low=0.05, high=0.4)
    """Around the 0.2 of PPO."""
    beta: Range = Range(low=1e-4, high=0.1, log=True)
    """From next to free to close to the SFT policy."""

    noise_scale: Range = Range(low=0.1, high=1.0, log=True)
    """From samples close to the policy to the published ones, which lie anywhere."""
    reward_k: Range = Range(low=5, high=50, log=True, whole=True)
    """From the head of the merged list to half of the lists: what is tried beyond fusion.k rewards targets that come close."""
    head_learning_rate: Range = Range(low=3e-4, high=3e-2, log=True)
    """A factor of ten around that of a head that reads numbers."""

    def ranges(self, config: ExperimentConfig) -> dict[str, Range]:
        """Returns the range of each setting that is searched, by its name in the section `grpo`.

        Left out are settings that change nothing in this run, and those that change what comes before SofT-GRPO, which all trials
        share.

        Args:
            config: The configuration that the search starts from.
        """
        ranges: dict[str, Range] = dict(self)
        before = config.labels.kind == "gate" or config.policy.prior == "gate"  # that gate learns from the same rewards
        left_out = {
            "tau_gumbel": config.grpo.sampling == "discrete",
            "noise_scale": config.grpo.sampling == "discrete" or before,
            "reward_k": config.grpo.reward != "ndcg" or before or config.recall.depth <= self.reward_k.low,
            "head_learning_rate": config.policy.numbers == "none",  # the head learns as the rest does
        }
        deepest = min(self.reward_k.high, float(config.recall.depth))
        ranges["reward_k"] = self.reward_k.model_copy(update={"high": deepest})
        return {name: values for name, values in ranges.items() if not left_out.get(name, False)}

    def start(self, config: ExperimentConfig) -> dict[str, float]:
        """Returns the values that a configuration has, which are the first to be tried.

        Raises:
            ConfigError: One is outside its range.
        """
        ranges = self.ranges(config)
        values = {name: _used(config, name, each.whole) for name, each in ranges.items()}
        for name, value in values.items():
            if not ranges[name].low <= value <= ranges[name].high:
                rule = f"The search starts there, so it must lie in {ranges[name].low:g} to {ranges[name].high:g}"
                raise ConfigError(f"grpo.{name} = {value:g}", rule, "Give another value", code="CONFIG-045")
        return values


def _used(config: ExperimentConfig, name: str, whole: bool) -> float:
    """Returns the value of a setting of the section `grpo` that a run uses; null is what follows from other settings."""
    value = dict(config.grpo)[name]
    if name == "reward_k" and value is None:
        value = config.fusion.k
    if name == "head_learning_rate":
        value = head_rate(config.policy, value)
    return int(value) if whole else float(value)


def plan_study(
    dataset: str, size: str, stage: str, overrides: Mapping[str, Any], trials: int, space: SearchSpace
) -> ExperimentConfig:
    """Returns the configuration that a study starts from.

    Args:
        dataset: Name of a dataset.
        size: Size of the language model.
        stage: `debug` adds the debug preset.
        overrides: Settings by dotted path.
        trials: Trials wanted.
        space: What is searched.

    Raises:
        ConfigError: A setting is wrong, a tuned one is outside its range, or no trial is asked for.
    """
    if trials < 1:
        raise ConfigError(f"trials = {trials}", "A study has at least one", "Ask for more", code="CONFIG-046")
    config = resolve(dataset, size, stage, overrides)
    if config.grpo.num_train_epochs == 0:
        raise ConfigError(
            "grpo.num_train_epochs = 0",
            "Trials differ in how they train, so they have to",
            "Give a number above 0",
            code="CONFIG-047",
        )
    space.start(config)
    return config


def as_overrides(values: Mapping[str, float]) -> dict[str, float]:
    """Returns tried values as settings by dotted path, each with four digits; whole numbers stay whole."""
    return {
        f"{STAGE}.{name}": value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
        for name, value in values.items()
    }


def with_values(config: ExperimentConfig, values: Mapping[str, float]) -> ExperimentConfig:
    """Returns a configuration with tried values, each with four digits."""
    tried = {path.removeprefix(f"{STAGE}."): value for path, value in as_overrides(values).items()}
    return config.model_copy(update={STAGE: GRPOConfig.model_validate(config.grpo.model_dump() | tried)})


def study_name(nodes: Sequence[Node], config: ExperimentConfig, space: SearchSpace) -> str:
    """Returns the name of a study: two trials are of one study if they differ in nothing but the tuned settings.

    Args:
        nodes: The plan up to the stage that is tuned.
        config: The resolved configuration; its values of the tuned settings do not count.
        space: What is searched.

    Returns:
        `<dataset>-<size>-<recallers>-<12 hex digits>`; the digits stand for data, settings, code and libraries.
    """
    lowest = {name: int(each.low) if each.whole else each.low for name, each in space.ranges(config).items()}
    neutral = with_values(config, lowest)
    keys: dict[str, str] = {}  # in the place of what they lead to: known before anything has run
    for node in nodes:
        keys[node.name] = stage_key(node, neutral, keys)
    digest = digest_json({"space": space.model_dump(mode="json"), "keys": keys})[:12]
    return "-".join((config.data.dataset, config.policy.size, "_".join(config.recall.recallers), digest))


def validation_ndcg(drawn: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[int, float]:
    """Returns the validation NDCG by step, without the starting point, which all trials share and which would make them tie.

    Args:
        drawn: The `curves.json` of a training.
    """
    points = drawn[BEST_METRIC]
    return {int(step): value for step, value in zip(points["step"], points["value"], strict=True) if step > 0}
