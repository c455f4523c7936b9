"""What gates without a language model are fitted on, in the stages `sft` (as a teacher) and `test` (as baselines)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.baselines.gates import GATES, TEACHERS, fit_gates
from softgrpo.baselines.inputs import GateData, GateWeights, gate_numbers, standardised
from softgrpo.policy import static_prior
from softgrpo.records import Part
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
    numbers = gate_numbers(prepared.features, prepared.windows)
    static = np.asarray(prepared.static.best.weights)
    return GateData(
        train=prepared.judged(train),
        train_ndcg=prepared.features.ndcg[train],
        valid=prepared.judged(valid),
        numbers=standardised(numbers, train, valid, asked),
        static=torch.from_numpy(static),
        prior=torch.tensor(static_prior(static, config.policy.prior_floor)),
        seed=config.seed,
    )


@dataclass(frozen=True)
class Teacher:
    """The gate that labels windows for SFT.

    Attributes:
        name: Among `TEACHERS`.
        gate: Fitted on all windows that SofT-GRPO trains on, the best of them on validation windows.
        labels: (W, M) float64, what it answers for the windows to label.
    """

    name: str
    gate: GateWeights
    labels: NDArray[np.float64]


def teach(prepared: Prepared, rows: NDArray[np.int64]) -> Teacher:
    """Labels policy windows by the best gate on validation windows, none by a gate that saw its answer.

    Windows that the gate learnt from are labelled by the same kind of gate, fitted on the other half of them (a seeded one).

    Args:
        prepared: Output of the earlier stages.
        rows: Numbers of the windows to label.

    Raises:
        DataError: There is no window to learn from, or none to choose on.
    """
    train = prepared.rewarded_rows()
    found = fit_gates(TEACHERS, gate_data(prepared, train, rows))
    name = max(found, key=lambda each: found[each].valid_ndcg)
    labels = found[name].weights.numpy().copy()
    half = np.random.default_rng(prepared.config.seed).permutation(len(train)) % 2
    for fold in range(2):
        seen = np.isin(rows, train[half == fold])
        if seen.any() and len(train) > 1:
            data = gate_data(prepared, train[half != fold], rows[seen])
            labels[seen] = GATES[name][1](data).weights.numpy()
    return Teacher(name, found[name], labels)
