"""What a stage takes of memory at its peak, in a process of its own, from sizes and settings.

The constants were measured, see docs/performance.md. Legend: W windows, M recallers, D depth, I items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from softgrpo.common.names import TEXT, recaller_and_fold
from softgrpo.config import ExperimentConfig
from softgrpo.data.size import DataSize
from softgrpo.pipeline.costs import has_gpu
from softgrpo.pipeline.model_costs import prompt_tokens
from softgrpo.policy.model_size import all_weights, frozen_share, layer_weights
from softgrpo.recallers.kinds import kind_of
from softgrpo.recallers.plugins import plugin_names
from softgrpo.recallers.registry import TRAINING_SETTINGS
from softgrpo.stages.contract import Node

MIB = 2**20
PYTHON_BYTES: Mapping[str, float] = {
    "split": 450 * MIB,
    "embed": 700 * MIB,
    "recall": 700 * MIB,
    "data": 550 * MIB,
    "check": 420 * MIB,
    "gates": 640 * MIB,
    "sft": 800 * MIB,
    "grpo": 750 * MIB,
    "test": 800 * MIB,
}
"""Of a process with the libraries that a stage needs, and of what does not grow with the data."""
OTHER_PYTHON_BYTES = 800 * MIB
"""The same of a stage that nothing is known of."""
ENTRY_BYTES = 8
"""Of an entry of a list: item and score."""
READ_BYTES = 110
"""Of an interaction while the data are read."""
LISTING_BYTES = 40
"""Of an entry of a list that a recaller makes, with what checks and writes it."""
GIVEN_BYTES, GIVEN_ROWS = 110, 1_250_000
"""Of a row of a file of lists while it is read, and how many rows are held at a time."""
POSITION_BYTES = 32
"""Of an interaction where histories are looked up."""
HELD_BYTES = 2**27
"""Of the lists of all windows, at most."""
INTERACTION_BYTES = 250
"""Of a training interaction in RecBole."""
WIDTH, COPIES = 64, 4
"""Of a recaller's embeddings, and how often training holds them: weights, gradients and both moments of Adam."""
DENSE, PAIR_BYTES = frozenset({"ADMMSLIM", "EASE"}), 24
"""Recallers that hold matrices of all pairs of items, and bytes of a pair in all of them."""
SCORE_BYTES = 16
"""Of the score of a window and an item, with what sorts it."""
NUMBERS, OTHER_NUMBERS = 16, 12
"""Numbers of a window: by recaller, and others."""
FEATURE_BYTES = 40
"""Of the features of a window and recaller."""
DESCRIBED_BYTES = 100
"""The same while they are computed."""
PLATT_BYTES = 40
"""Of an entry of a recaller's lists while its normalisation `platt` is fitted."""
SCRATCH_BYTES, SEARCHED_ARRAYS = 2**26, 8
"""Of an array with something of every window that is kept in memory, where a larger one lies in a file; and how many there are
while weights are searched."""
TEST_BYTES = 3000
"""Of a test window beside the table of all rows."""
PROMPT_BYTES = 3000
"""Of a prompt."""
UNION_SHARE = 0.8
"""Items of all lists of a window together, as a share of their entries."""
CONTENDERS = 64
"""Items of a window that can win."""
HIT_SHARE = 0.6
"""Windows in which some list holds a target."""
ACTIVATION_BYTES = 70
"""Of a token in training, for each layer and each component of its width."""
ROWS, METRICS, TABLE_COPIES = 24, 20, 2.5
"""Rows of the table, numbers of a row and window, and how often the stage `test` holds them."""
MERGES, SHARD = 6, 1024
"""Merges under which the stage `test` holds its windows, where these are no more than a shard."""


def memory_bytes(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    """Returns the peak memory of the process of a stage.

    Args:
        node: The stage.
        config: The resolved configuration.
        size: Of the data.

    Raises:
        PolicyError: The files of a language model are not there, or are broken.
    """
    name = node.stage.name
    grows = GROWTH.get(name)
    own = 0.0 if grows is None else grows(node, config, size)
    return PYTHON_BYTES.get(name, OTHER_PYTHON_BYTES) + own


def lists_bytes(config: ExperimentConfig, windows: float) -> float:
    """Returns what the lists of a pool take for some windows."""
    return windows * len(config.recall.recallers) * config.recall.depth * ENTRY_BYTES


def aligned_bytes(config: ExperimentConfig, items: float) -> float:
    """Returns what a window's lists take over a union of some items: items, ranks, values, and places of the lists."""
    recallers = len(config.recall.recallers)
    return 8 * items + 8 * recallers * items + 8 * recallers * (config.recall.depth + 1)


def _whole_union(config: ExperimentConfig) -> float:
    return UNION_SHARE * len(config.recall.recallers) * config.recall.depth


def numbers_bytes(config: ExperimentConfig, windows: float) -> float:
    """Returns what the numbers of some windows take."""
    return windows * 8 * (NUMBERS * len(config.recall.recallers) + OTHER_NUMBERS)


def _split(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    return READ_BYTES * size.interactions


def _embed(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    return 4 * all_weights(config.text.model_name, "tiny") + PROMPT_BYTES * size.items


def _recall(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    recaller, _ = recaller_and_fold(node.variant)
    entries = size.windows * config.recall.depth
    if recaller in config.recall.files:
        at_a_time = min(1.0, GIVEN_ROWS / max(entries, 1))  # users whose lists and histories are held
        return at_a_time * (GIVEN_BYTES * entries + POSITION_BYTES * size.interactions)
    scores = SCORE_BYTES * min(config.recall.batch_size, size.windows) * size.items
    own = LISTING_BYTES * entries + scores
    if recaller == TEXT or recaller in plugin_names():
        return own + 4 * WIDTH * COPIES * size.items
    settings = {**TRAINING_SETTINGS, **config.recall.settings_of(recaller)}
    own += INTERACTION_BYTES * size.training + 4 * WIDTH * COPIES * (size.users + size.items)
    if recaller in DENSE:
        own += PAIR_BYTES * size.items**2
    elif kind_of(recaller) == "sequences":
        targets = config.recall.targets_per_user
        examples = size.training if targets is None else min(size.training, targets * size.users)
        own += 8 * examples * int(settings["MAX_ITEM_LIST_LENGTH"])
        own += SCORE_BYTES * int(settings["train_batch_size"]) * size.items
    return own


def _sampled(config: ExperimentConfig, windows: int) -> int:
    """Returns how many of some windows are learnt from or chosen by."""
    return min(windows, config.train.sample_windows or windows)


def _described(config: ExperimentConfig, size: DataSize) -> float:
    """Returns what features and numbers of all windows take, with copies on the way."""
    return FEATURE_BYTES * len(config.recall.recallers) * size.windows + 2 * numbers_bytes(config, size.windows)


def _data(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    learnt, chosen_on = _sampled(config, size.policy), _sampled(config, size.valid)
    searched = HIT_SHARE * (learnt + chosen_on) * aligned_bytes(config, CONTENDERS)
    described = DESCRIBED_BYTES * len(config.recall.recallers) * size.windows
    fitted = PLATT_BYTES * config.recall.depth * learnt
    return _held(config, size) + max(described, fitted, min(searched, SEARCHED_ARRAYS * SCRATCH_BYTES))


def _held(config: ExperimentConfig, size: DataSize) -> float:
    return min(HELD_BYTES, lists_bytes(config, size.windows))


def _check(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    return 2 * lists_bytes(config, size.windows) + _described(config, size) + PROMPT_BYTES * size.windows


def _gates(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    learnt = _sampled(config, size.policy) + _sampled(config, size.valid)
    searched = learnt * aligned_bytes(config, CONTENDERS)
    return _held(config, size) + numbers_bytes(config, learnt) + min(searched, SEARCHED_ARRAYS * SCRATCH_BYTES)


def _training(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    train, policy = config.train, config.policy
    weights = all_weights(policy.model_name, policy.size)
    frozen = frozen_share(policy.model_name, policy.frozen_layers)
    trained = (1 - frozen) * weights if policy.adapter == "none" else 0.0
    tokens = train.share(train.processes)[0] * prompt_tokens(config)
    width = math.sqrt(
        layer_weights(policy.model_name, policy.size)
    )  # of all layers: within a factor of 2 in the presets' models
    activations = (1 - frozen) * ACTIVATION_BYTES * tokens * width
    learnt, chosen_on = _sampled(config, size.policy), _sampled(config, size.valid)
    windows = min(learnt, train.max_train_windows or learnt) + min(chosen_on, train.max_valid_windows or chosen_on)
    judged = windows * (aligned_bytes(config, CONTENDERS) + PROMPT_BYTES)
    trains_here = 0.0 if train.device != "cpu" and has_gpu() else 12 * trained + activations
    return train.processes * (4 * weights + trains_here + _held(config, size) + judged)


def _test(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    weights = all_weights(config.policy.model_name, config.policy.size)
    judged = MERGES * min(size.test, SHARD) * aligned_bytes(config, _whole_union(config))
    table = min(TABLE_COPIES * 8 * ROWS * METRICS * size.test, SCRATCH_BYTES + TEST_BYTES * size.test)
    return 4 * weights + _held(config, size) + judged + table


GROWTH: Mapping[str, Callable[[Node, ExperimentConfig, DataSize], float]] = {
    "split": _split,
    "embed": _embed,
    "recall": _recall,
    "data": _data,
    "check": _check,
    "gates": _gates,
    "sft": _training,
    "grpo": _training,
    "test": _test,
}
"""What grows with the data and the model, by stage."""
