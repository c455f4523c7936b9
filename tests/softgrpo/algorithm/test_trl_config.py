from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig as TheirConfig

from softgrpo.algorithm.trl_config import SoftGRPOConfig
from softgrpo.config import GRPOConfig
from softgrpo.errors import ConfigError

OUTSIDE = {"learning_rate", "head_learning_rate", "num_train_epochs", "drop_flat", "reward", "reward_k"}
"""Settings of the stage that are no arguments of this class alone."""
OF_THE_TRAINER = {
    "disable_dropout", "reward_weights", "multi_objective_aggregation", "loss_type", "sapo_temperature_pos", "sapo_temperature_neg",
    "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg", "sync_ref_model", "ref_model_mixup_alpha",
    "ref_model_sync_steps", "log_completions", "num_completions_to_print",
}  # fmt: skip
"""Arguments that are no settings of the pipeline."""
WORDS = {"null": "None", "recaller": "class", "the SFT policy": "the model as it is before training"}
"""Words of the pipeline, which the algorithm does not know, and its own for them."""


def arguments() -> dict[str, str]:
    """Returns the description of each argument in the docstring."""
    block = inspect.cleandoc(str(SoftGRPOConfig.__doc__)).partition("Args:\n")[2]
    entries = re.findall(r"^    (\w+): ((?:.|\n(?!    \w))+)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def test_each_setting_is_described_in_the_same_words_as_in_the_configuration() -> None:
    described = arguments()
    shared = GRPOConfig.model_fields.keys() - OUTSIDE
    assert shared < {field.name for field in dataclasses.fields(SoftGRPOConfig)}
    assert described.keys() == shared | OF_THE_TRAINER
    for name in shared:
        expected = " ".join(str(GRPOConfig.model_fields[name].description).split())
        for ours, theirs in WORDS.items():
            expected = expected.replace(ours, theirs)
        assert described[name] == expected, name


def test_names_and_defaults_are_those_of_trl() -> None:
    theirs = {field.name: field.default for field in dataclasses.fields(TheirConfig)}
    ours = {field.name: field.default for field in dataclasses.fields(SoftGRPOConfig)}
    own = {"disable_dropout", "loss_type"}  # off there; and dapo, which is the same loss here
    assert {name: ours[name] for name in OF_THE_TRAINER - own} == {name: theirs[name] for name in OF_THE_TRAINER - own}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ppo"}, r"loss_type = ppo\. It must be one of grpo, bnpo"),
        ({"loss_type": "cispo"}, r"epsilon_high = None\. For loss_type cispo it is the largest ratio"),
        ({"loss_type": "cispo", "epsilon_high": 0.2}, "epsilon_high = 0.2"),
        ({"loss_type": "sapo", "delta": 2.0}, r"delta = 2\.0\. loss_type sapo does not clip on two sides"),
        ({"loss_type": "sapo", "sapo_temperature_neg": 0.0}, "sapo_temperature_neg = 0.0"),
        ({"multi_objective_aggregation": "sum"}, "multi_objective_aggregation = sum"),
        ({"sync_ref_model": True, "beta": 0.0}, r"sync_ref_model = True\. Without beta > 0 there is no reference"),
        ({"ref_model_mixup_alpha": 1.5}, r"ref_model_mixup_alpha = 1\.5\. It must be in \[0, 1\]"),
        ({"ref_model_sync_steps": 0}, "ref_model_sync_steps = 0"),
        ({"num_completions_to_print": 0}, "num_completions_to_print = 0"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message + r".*\[CONFIG-042\]"):
        SoftGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **changes)


@pytest.mark.parametrize(("given", "meant"), [(True, "group"), (False, "none")])
def test_scale_rewards_may_be_a_switch_as_in_trl(given: bool, meant: str, tmp_path: Path) -> None:
    config = SoftGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, scale_rewards=given)  # type: ignore[arg-type]
    assert config.scale_rewards == meant
