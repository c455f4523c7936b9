"""The prior `gate`: what the best gate says of each window, where the policy starts. Legend: W windows, M recallers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.baselines.gates import Gate
from softgrpo.policy.prior import floored_log
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.teacher import gate_data, weights_unseen


def fit_gate_prior(prepared: Prepared) -> tuple[Gate, NDArray[np.float32]]:
    """Fits the gate that a policy starts at, the same that the stage `gates` stores under its name.

    It is fitted here again, for a policy must not be trained anew where only `evaluation.baselines` changed, and the windows that
    it learnt from need two more gates in any case, see `softgrpo.stages.teacher.weights_unseen`.

    Args:
        prepared: Output of the earlier stages.

    Returns:
        The best gate by validation windows, and the log of the weights of all windows under the floor of the prior, (W, M).

    Raises:
        DataError: There is no window to fit on, or none to choose on.
    """
    gate = Gate.best(*gate_data(prepared, prepared.rewarded_rows()))
    weights = weights_unseen(prepared, gate, np.arange(len(prepared.windows)))
    return gate, floored_log(weights, prepared.config.policy.prior_floor).astype(np.float32)
