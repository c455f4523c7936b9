"""What gates without a language model are fitted on, in the stages `sft` (as a teacher) and `test` (as baselines)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.baselines.inputs import GateData, GateWeights, check_windows, standardised
from softgrpo.baselines.networks import fit_network
from softgrpo.common.records import Part
from softgrpo.policy.prior import static_prior
from softgrpo.stages.inputs import Prepared


def gate_data(prepared: Prepared, train: NDArray[np.int64], asked: NDArray[np.int64]) -> GateData:
    """Returns what gates are fitted on, chosen on (all validation windows) and asked about.

    Args:
        prepared: Output of the earlier stages.
        train: Numbers of policy windows.
        asked: Numbers of the windows that the gates are asked about.
    """
    config = prepared.config
    valid = prepared.windows.of(Part.VALID)
    start = prepared.windows.start
    static = np.asarray(prepared.static.best.weights)
    return GateData(
        train=prepared.judged(train),
        train_ndcg=prepared.features.ndcg[train],
        valid=prepared.judged(valid),
        numbers=standardised(prepared.numbers.values, train, valid, asked),
        static=torch.from_numpy(static),
        prior=torch.tensor(static_prior(static, config.policy.prior_floor)),
        seed=config.seed,
        reward=config.grpo.reward,
        reward_k=config.grpo.reward_k,
        noise_scale=config.grpo.noise_scale,
        history=(start[train], start[valid], start[asked]),
    )


def teach(prepared: Prepared, rows: NDArray[np.int64]) -> tuple[GateWeights, NDArray[np.float64]]:
    """Labels policy windows by the network that SofT-GRPO trains on the windows' numbers, none by one that saw its answer.

    Windows that the network learnt from are labelled by another one, which learnt from the other half of them (a seeded one).

    Args:
        prepared: Output of the earlier stages.
        rows: Numbers of the windows to label.

    Returns:
        The network that learnt from all windows that SofT-GRPO trains on, and the labels (W, M).

    Raises:
        DataError: There is no window to learn from, or none to choose on.
    """
    train = prepared.rewarded_rows()
    teacher = _network(gate_data(prepared, train, rows))
    labels: NDArray[np.float64] = teacher.weights.numpy().copy()
    half = np.random.default_rng(prepared.config.seed).permutation(len(train)) % 2
    for fold in range(2):
        seen = np.isin(rows, train[half == fold])
        if seen.any() and len(train) > 1:
            labels[seen] = _network(gate_data(prepared, train[half != fold], rows[seen])).weights.numpy()
    return teacher, labels


def _network(data: GateData) -> GateWeights:
    check_windows(data)
    return fit_network(data, "soft")
