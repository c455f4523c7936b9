"""What the stages give a policy to read: rows of prompts and, where it reads them, the windows' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softgrpo.algorithm.batching import PromptRows
from softgrpo.common.records import Part
from softgrpo.policy.card import check_numbers
from softgrpo.policy.model import Policy, create_policy, load_policy
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.prompts import EncodedPrompts
from softgrpo.policy.window_inputs import NUMBERS
from softgrpo.stages.inputs import Prepared


def create_for(prepared: Prepared) -> Policy:
    """Returns a new policy for a run's pool, at its best static mixture, with the scale of its numbers if it reads them.

    Raises:
        PolicyError: The model cannot be found, read or adapted.
    """
    config = prepared.config
    scale = None
    if config.policy.numbers != "none":
        numbers = prepared.numbers
        scale = NumberScale.of(numbers.names, numbers.values[prepared.windows.of(Part.POLICY)])
    weights = np.asarray(prepared.static.best.weights)
    return create_policy(config.policy, prepared.lists.recallers, config.prompt.max_length, weights, config.seed, scale)


def load_for(prepared: Prepared, folder: Path) -> Policy:
    """Loads a stored policy for a run's pool and numbers.

    Raises:
        PolicyError: See `load_policy`; or it was trained on other numbers.
    """
    policy = load_policy(folder, prepared.config.policy, prepared.lists.recallers)
    if policy.card.reads_numbers != "none":
        check_numbers(policy.card, prepared.numbers.names)
    return policy


def rows_of(
    prepared: Prepared,
    rows: NDArray[np.int64],
    policy: Policy,
    prompts: EncodedPrompts | None = None,
    columns: Mapping[str, NDArray[Any]] | None = None,
) -> PromptRows:
    """Returns what a policy reads of some windows, in their order.

    Args:
        prepared: Output of the earlier stages.
        rows: Window numbers.
        policy: Who reads.
        prompts: Token ids of the windows, where they are known already.
        columns: Further columns, one value per window each.
    """
    encoded = prepared.encoded(rows, policy.tokenizer) if prompts is None else prompts
    read = {} if policy.card.reads_numbers == "none" else {NUMBERS: prepared.numbers.values[rows].astype(np.float32)}
    return PromptRows(encoded.input_ids, {**(columns or {}), **read})
