"""The scale of the numbers that a policy reads: their mean and standard deviation over policy windows, stored with the policy.

Legend: W windows, F numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CONSTANT = 1e-9
"""A number with a smaller standard deviation does not vary."""
FURTHEST = 5.0
"""Standard deviations from the mean at which a number is cut off: one strange window must not dominate."""


@dataclass(frozen=True)
class NumberScale:
    """What makes numbers comparable.

    Attributes:
        names: What people call each, F of them.
        mean: (F,) over policy windows.
        spread: (F,) standard deviation over policy windows.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, names: tuple[str, ...], values: NDArray[np.float64]) -> NumberScale:
        """Returns the scale of numbers by their values on policy windows, (W, F)."""
        return cls(names, values.mean(0), values.std(0))

    @classmethod
    def unknown(cls, names: tuple[str, ...]) -> NumberScale:
        """Returns a scale to be filled from a stored policy."""
        return cls(names, np.zeros(len(names)), np.ones(len(names)))


class Standardise(nn.Module):
    """Numbers (..., F) as people stored them to numbers of mean 0 and standard deviation 1, cut off at 5.

    A number that does not vary over policy windows is 0 throughout. The scale is part of the module's state.

    Args:
        scale: Of the policy windows.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, scale: NumberScale) -> None:
        super().__init__()
        factor = np.where(scale.spread > CONSTANT, 1.0 / np.maximum(scale.spread, CONSTANT), 0.0)
        self.register_buffer("mean", torch.from_numpy(scale.mean).float())
        self.register_buffer("factor", torch.from_numpy(factor).float())

    def forward(self, numbers: Tensor) -> Tensor:
        """Returns standardised numbers, float32."""
        return ((numbers.float() - self.mean) * self.factor).clamp(-FURTHEST, FURTHEST)
