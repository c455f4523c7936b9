"""What gates without a language model are fitted on, in the stages `gates` and `sft`. Legend: W windows, M recallers, F numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.baselines.gates import Gate
from softgrpo.baselines.inputs import GateData, standardised
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.prior import static_prior
from softgrpo.ranking.judged import JudgedLists
from softgrpo.stages.inputs import Prepared

TEACHER = "network"
"""The gate that labels windows."""


def gate_data(prepared: Prepared, train: NDArray[np.int64]) -> tuple[GateData, NumberScale]:
    """Returns what gates are fitted on and chosen on (`Prepared.validation_rows`), and the scale of their numbers.

    Args:
        prepared: Output of the earlier stages.
        train: Numbers of policy windows.
    """
    config, numbers = prepared.config, prepared.numbers
    valid = prepared.validation_rows
    start = prepared.windows.start
    static = np.asarray(prepared.static.best.weights)
    data = GateData(
        train=rewarded(prepared, train),
        train_ndcg=prepared.features.ndcg[train],
        valid=rewarded(prepared, valid),
        numbers=standardised(numbers.values, train, valid),
        static=torch.from_numpy(static),
        prior=torch.tensor(static_prior(static, config.policy.prior_floor)),
        seed=config.seed,
        reward=config.grpo.reward,
        reward_k=config.grpo.reward_k,
        noise_scale=config.grpo.noise_scale,
        history=(start[train], start[valid]),
    )
    return data, NumberScale.of(numbers.names, numbers.values[train])


def rewarded(prepared: Prepared, rows: NDArray[np.int64]) -> JudgedLists:
    """Returns lists and targets of some windows, with the items that can earn anything in training or evaluation."""
    grpo, fusion = prepared.config.grpo, prepared.fusion
    if grpo.reward == "log_probability":  # it is over all items
        return prepared.judged(rows)
    deepest = max(fusion.k, grpo.reward_k or fusion.k)
    return replace(prepared.contending(rows, deepest), fusion=fusion)


def weights_unseen(prepared: Prepared, gate: Gate, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns a gate's weights (W, M) of some windows, none by a gate that saw the window's answer.

    Policy windows that the gate learnt from get the weights of another gate of its kind, which learnt from the other half of them
    (a seeded one): it would know their answers, and what learns from its weights would learn from differences that other windows
    do not have.

    Args:
        prepared: Output of the earlier stages.
        gate: Learnt from all windows that SofT-GRPO trains on.
        rows: (W,) numbers of windows, ascending.
    """
    values, train = prepared.numbers.values, prepared.rewarded_rows()
    weights = gate.weights(values[rows])
    half = np.random.default_rng(prepared.config.seed).permutation(len(train)) % 2
    for fold in range(2) if len(train) > 1 else ():
        seen = np.isin(rows, train[half == fold])
        if seen.any():
            other = Gate.fit(gate.kind, *gate_data(prepared, train[half != fold]))
            weights[seen] = other.weights(values[rows[seen]])
    return weights


def teach(prepared: Prepared, rows: NDArray[np.int64]) -> tuple[Gate, NDArray[np.float64]]:
    """Labels policy windows by the network that SofT-GRPO trains on the windows' numbers, none by one that saw its answer.

    Args:
        prepared: Output of the earlier stages.
        rows: Numbers of the windows to label, ascending.

    Returns:
        The network that learnt from all windows that SofT-GRPO trains on, and the labels (W, M), see `weights_unseen`.

    Raises:
        DataError: There is no window to learn from, or none to choose on.
    """
    teacher = Gate.fit(TEACHER, *gate_data(prepared, prepared.rewarded_rows()))
    return teacher, weights_unseen(prepared, teacher, rows)
