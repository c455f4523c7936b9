"""What the stages give a policy to read: rows of prompts and, where it reads them, the windows' numbers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from softgrpo.algorithm.batching import PromptRows
from softgrpo.common.artifacts import GATE, PRIOR
from softgrpo.common.records import Part
from softgrpo.errors import PolicyError
from softgrpo.policy.card import PolicyCard, check_numbers
from softgrpo.policy.model import Policy, create_policy, load_policy
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.prompts import EncodedPrompts
from softgrpo.policy.window_inputs import LOG_PRIOR, NUMBERS
from softgrpo.stages.inputs import Prepared

_TRAIN_AGAIN = "Repeat the stage sft, which fits the gate"


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
    return create_policy(config.policy, prepared.recallers, config.prompt.max_length, weights, config.seed, scale)


def load_for(prepared: Prepared, folder: Path) -> Policy:
    """Loads a stored policy for a run's pool and numbers.

    Raises:
        PolicyError: See `load_policy`; or it was trained on other numbers.
    """
    policy = load_policy(folder, prepared.config.policy, prepared.recallers)
    if policy.card.reads_numbers != "none":
        check_numbers(policy.card, prepared.numbers.names)
    return policy


def rows_of(
    prepared: Prepared,
    rows: NDArray[np.int64],
    policy: Policy,
    prompts: EncodedPrompts | None = None,
    columns: Mapping[str, NDArray[Any]] | None = None,
    log_prior: NDArray[np.float32] | None = None,
) -> PromptRows:
    """Returns what a policy reads of some windows, in their order.

    Args:
        prepared: Output of the earlier stages.
        rows: Window numbers.
        policy: Who reads.
        prompts: Token ids of the windows, where they are known already.
        columns: Further columns, one value per window each.
        log_prior: (W, M) log weights that the policy starts from, of all windows; only needed where it has a prior per window.
    """
    encoded = prepared.encoded(rows, policy.tokenizer) if prompts is None else prompts
    read = {} if policy.card.reads_numbers == "none" else {NUMBERS: prepared.numbers.values[rows].astype(np.float32)}
    if policy.card.prior_per_window:
        assert log_prior is not None
        read[LOG_PRIOR] = log_prior[rows]
    return PromptRows(encoded.input_ids, {**(columns or {}), **read})


def save_prior(folder: Path, log_prior: NDArray[np.float32]) -> None:
    """Writes the log weights (W, M) that a policy starts from beside the policy."""
    save_file({LOG_PRIOR: log_prior}, folder / PRIOR)


def load_prior(prepared: Prepared, folder: Path, card: PolicyCard) -> NDArray[np.float32] | None:
    """Returns the log weights (W, M) that a stored policy starts from; None where it has no prior per window.

    Args:
        prepared: Output of the earlier stages: the W windows.
        folder: Of the policy.
        card: Of the policy.

    Raises:
        PolicyError: They are not there, or are those of another run.
    """
    if not card.prior_per_window:
        return None
    windows = len(prepared.windows)
    rule = f"a policy that starts at a gate needs the gate's weights of this run's {windows} windows"
    if not (folder / PRIOR).is_file():
        raise PolicyError(f"'{folder}' without {PRIOR}", rule, _TRAIN_AGAIN, code="POLICY-038")
    stored: NDArray[np.float32] = load_file(folder / PRIOR)[LOG_PRIOR]
    if stored.shape != (windows, len(card.recallers)):
        raise PolicyError(f"'{folder / PRIOR}' of shape {stored.shape}", rule, _TRAIN_AGAIN, code="POLICY-039")
    return stored


def keep_prior(source: Path, folder: Path) -> None:
    """Copies the gate that a policy starts at, and its weights, beside the policy that was trained from there."""
    shutil.copy2(source / PRIOR, folder / PRIOR)
    shutil.copytree(source / GATE, folder / GATE)
