"""What language models take, in floating point operations: those of the stages that train or ask one, and the encoder of texts."""

from __future__ import annotations

from softgrpo.config import ExperimentConfig
from softgrpo.data.size import DataSize
from softgrpo.pipeline import text_costs
from softgrpo.policy.model_size import frozen_share, layer_weights

TRAIN_SHARE, READ_SHARE = 0.80, 0.72
"""What language models reach of `core_speed`, forward and backward, and forward alone."""
PROMPT_TOKENS, RECALLER_TOKENS, ITEM_TOKENS, GENRE_TOKENS = 25, 25, 7, 3
"""Tokens of a prompt: whatever it says, and for each recaller, item of the history, and item's genres."""
TEST_READINGS = 1.5
"""Policies that read the test windows: SFT's and SofT-GRPO's, or one where SofT-GRPO kept SFT's."""
READ_WINDOWS = 0.7
"""Share of validation windows in which weights can earn anything; the others are not read."""


def prompt_tokens(config: ExperimentConfig) -> int:
    """Returns about how many tokens a prompt has."""
    prompt = config.prompt
    item = ITEM_TOKENS + (GENRE_TOKENS if prompt.genres else 0)
    tokens = PROMPT_TOKENS + RECALLER_TOKENS * len(config.recall.recallers) + item * prompt.history_items
    return min(prompt.max_length, tokens)


def operations(stage: str, config: ExperimentConfig, size: DataSize) -> float:
    """Returns the operations of a language model in embed, sft, grpo or test, as if all ran at `core_speed`."""
    if stage == "embed":
        return 2.0 * layer_weights(config.text.model_name, "tiny") * text_costs.tokens(config, size) / READ_SHARE
    train = config.train
    policy = config.policy
    token = 2.0 * layer_weights(policy.model_name, policy.size) * prompt_tokens(config)
    if stage == "test":
        return TEST_READINGS * size.test * token / READ_SHARE
    windows = min(size.policy, train.max_train_windows or size.policy)
    asked = READ_WINDOWS * min(size.valid, train.max_valid_windows or size.valid)
    backward = 2.0 if policy.adapter == "none" else 1.0  # adapters: nothing is worked out for the other weights
    epochs = config.sft.num_train_epochs if stage == "sft" else config.grpo.num_train_epochs
    passes = epochs * (config.grpo.num_iterations if stage == "grpo" else 1)
    read = (1 + train.evaluations) * asked + (windows if stage == "grpo" else 0)  # the start, and the reference
    visits = windows * passes * (1 + backward) / TRAIN_SHARE + (read if epochs else asked) / READ_SHARE
    once = (windows + asked) / READ_SHARE
    frozen = 0.0 if policy.numbers == "tokens" else frozen_share(policy.model_name, policy.frozen_layers)
    return token * (
        frozen * once + (1 - frozen) * visits
    )  # soft tokens learn below the frozen layers, so nothing is kept
