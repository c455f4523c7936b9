from __future__ import annotations

import dataclasses
import inspect
import re

from softgrpo.algorithm.trl_config import SoftGRPOConfig
from softgrpo.config import GRPOConfig

OUTSIDE = {"learning_rate", "head_learning_rate", "num_train_epochs", "drop_flat", "reward", "reward_k"}
"""Settings of the stage that are no arguments of this class alone."""
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
    assert described.keys() == shared | {"disable_dropout"}
    for name in shared:
        expected = " ".join(str(GRPOConfig.model_fields[name].description).split())
        for ours, theirs in WORDS.items():
            expected = expected.replace(ours, theirs)
        assert described[name] == expected, name
