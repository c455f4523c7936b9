"""What a stage stores on disk, from sizes and settings. The constants were measured, see docs/performance.md."""

from __future__ import annotations

from softgrpo.common.names import recaller_and_fold
from softgrpo.config import ExperimentConfig
from softgrpo.data.size import DataSize
from softgrpo.pipeline.memory_costs import DENSE, METRICS, ROWS, WIDTH, numbers_bytes
from softgrpo.policy.model_size import all_weights, frozen_share
from softgrpo.stages.contract import Node

KIB = 2**10
SMALL_FILES, FEW_NUMBERS = 30 * KIB, KIB
"""Beside what grows with the data, and of a stage that stores a few numbers."""
INTERACTION_BYTES, ITEM_BYTES, WINDOW_BYTES = 16, 60, 10
"""Of the corpus and its windows."""
ENTRY_BYTES = 5
"""Of an entry of a list, compressed."""
PROMPT_BYTES = 150
"""Of a prompt, compressed."""
FEATURE_BYTES = 28
"""Of the features of a window and recaller."""
GATES_BYTES = 3 * 2**20
"""Of all gates: mostly trees."""
REPORT_BYTES = 4 * 2**20
"""Of the pages and figures."""
NUMBER_BYTES = 1.5
"""Of a number of a row and a window in the files of the stage `test`, compressed."""
TOKENIZER_BYTES = 2**20
ADAPTER_SHARE = 0.02
"""Of a model's weights, those of its adapters."""


def disk_bytes(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    """Returns the bytes of the files of a stage.

    Args:
        node: The stage.
        config: The resolved configuration.
        size: Of the data.

    Raises:
        PolicyError: The files of a language model are not there, or are broken.
    """
    match node.stage.name:
        case "split":
            return (
                SMALL_FILES
                + INTERACTION_BYTES * size.interactions
                + ITEM_BYTES * (size.items + size.users)
                + (WINDOW_BYTES * size.windows)
            )
        case "recall":
            return SMALL_FILES + _lists(config, size, 1) + _recaller(node, config, size)
        case "embed":
            return SMALL_FILES + 4 * 384 * size.items
        case "data":
            recallers = len(config.recall.recallers)
            own = numbers_bytes(config, 1) + FEATURE_BYTES * recallers + PROMPT_BYTES
            return SMALL_FILES + _lists(config, size, recallers) + own * size.windows
        case "gates":
            return GATES_BYTES
        case "sft" | "grpo":
            return TOKENIZER_BYTES + _model(config)
        case "test":
            return REPORT_BYTES + NUMBER_BYTES * ROWS * METRICS * size.test
        case _:
            return FEW_NUMBERS


def _lists(config: ExperimentConfig, size: DataSize, recallers: int) -> float:
    return ENTRY_BYTES * size.windows * config.recall.depth * recallers


def _recaller(node: Node, config: ExperimentConfig, size: DataSize) -> float:
    """Returns the bytes of a recaller that was trained here."""
    recaller, _ = recaller_and_fold(node.variant)
    if recaller in config.recall.files:
        return 0.0
    return 4.0 * (size.items**2 if recaller in DENSE else WIDTH * (size.users + size.items))


def _model(config: ExperimentConfig) -> float:
    """Returns the bytes of a stored policy; adapters are stored alone unless they are merged."""
    policy = config.policy
    whole = 4.0 * all_weights(policy.model_name, policy.size)
    if policy.adapter == "none" or policy.merge_adapter:
        return whole
    return (1 - frozen_share(policy.model_name, policy.frozen_layers)) * whole * ADAPTER_SHARE
