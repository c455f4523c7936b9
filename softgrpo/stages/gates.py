"""What gates without a language model are fitted on, in the stages `sft` (as a teacher) and `test` (as baselines)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.baselines.inputs import GateData, gate_numbers, standardised
from softgrpo.policy import static_prior
from softgrpo.records import Part
from softgrpo.stages.inputs import Prepared


def gate_data(prepared: Prepared, rows: NDArray[np.int64]) -> GateData:
    """Returns what gates are fitted on (the windows that SofT-GRPO trains on), chosen on (all validation windows) and asked about.

    Args:
        prepared: Output of the earlier stages.
        rows: Numbers of the windows that the gates are asked about.
    """
    config = prepared.config
    train, valid = prepared.rewarded_rows(), prepared.windows.of(Part.VALID)
    numbers = gate_numbers(prepared.features, prepared.windows)
    static = np.asarray(prepared.static.best.weights)
    return GateData(
        train=prepared.judged(train),
        train_ndcg=prepared.features.ndcg[train],
        valid=prepared.judged(valid),
        numbers=standardised(numbers, train, valid, rows),
        static=torch.from_numpy(static),
        prior=torch.tensor(static_prior(static, config.policy.prior_floor)),
        seed=config.seed,
    )
