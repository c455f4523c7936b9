"""The prior `gate`: what the best gate says of each window, where the policy starts. Legend: W windows, M recallers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.baselines.inputs import GateData
from softgrpo.baselines.stored_gates import Gate
from softgrpo.common.records import Part
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.prior import floored_log
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.teacher import gate_data


def fit_gate_prior(prepared: Prepared) -> tuple[Gate, NDArray[np.float32]]:
    """Fits the gate that a policy starts at.

    Policy windows that the gate learnt from get the weights of another gate of its kind, which learnt from the other half of them
    (a seeded one): it would know their answers, and the policy would learn from differences that other windows do not have.

    Args:
        prepared: Output of the earlier stages.

    Returns:
        The best gate by validation windows, and the log of the weights of all windows under the floor of the prior, (W, M).

    Raises:
        DataError: There is no window to fit on, or none to choose on.
    """
    values, train = prepared.numbers.values, prepared.rewarded_rows()
    gate = Gate.best(*_data(prepared, train))
    weights = gate.weights(values)
    half = np.random.default_rng(prepared.config.seed).permutation(len(train)) % 2
    for fold in range(2) if len(train) > 1 else ():
        other = Gate.fit(gate.kind, *_data(prepared, train[half != fold]))
        seen = train[half == fold]
        weights[seen] = other.weights(values[seen])
    return gate, floored_log(weights, prepared.config.policy.prior_floor).astype(np.float32)


def _data(prepared: Prepared, train: NDArray[np.int64]) -> tuple[GateData, NumberScale]:
    numbers = prepared.numbers
    scale = NumberScale.of(numbers.names, numbers.values[train])
    return gate_data(prepared, train, prepared.windows.of(Part.VALID)), scale
