"""Where a policy starts: the best static mixture, or a gate's weights for each window, under a floor. Legend: M recallers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.config import PolicyConfig


def static_prior(weights: NDArray[np.float64], floor: float) -> tuple[float, ...]:
    """Returns the log of a static mixture, each weight raised to `floor` and the whole normalised, M values."""
    return tuple(float(value) for value in floored_log(weights, floor))


def floored_log(weights: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Returns the log of weights (..., M), each raised to `floor` and every M of them normalised."""
    raised = np.maximum(weights, floor)
    logs: NDArray[np.float64] = np.log(raised / raised.sum(-1, keepdims=True))
    return logs


def starting_weights(weights: NDArray[np.float64], config: PolicyConfig) -> Tensor:
    """Returns the weights (M,) float64 that a policy gives before any training: the static mixture under the prior's floor.

    They pass through float32 as the policy's logits do, so that a policy that kept its start has the same weights to the last
    digit. Without a static prior a policy does not start at the mixture, which then stays as it is.

    Args:
        weights: (M,) the best static mixture.
        config: Says whether there is a prior, and its floor.
    """
    if config.prior != "static":
        return torch.from_numpy(weights)
    return torch.tensor(static_prior(weights, config.prior_floor)).float().double().softmax(-1)
