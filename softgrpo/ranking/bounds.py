"""Bounds on the recallers' shares of the weight: the Euclidean projection onto the simplex between them.

The nearest shares within the bounds are `clip(share - shift, low, high)`, with the one shift for which they sum to 1 (Kiwiel 2008,
"Breakpoint searching algorithms for the continuous quadratic knapsack problem", doi:10.1007/s10107-006-0050-z). The sum falls
along straight lines with the shift, which bend only where a share meets a bound. So the shift is found exactly: between the two
such places next to sum 1. Unlike the projection by Kullback-Leibler divergence it is defined for shares of 0 too.

Legend: M recallers, N rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softgrpo.config import FusionConfig

TOLERANCE = 1e-6
"""By how much a share may miss a bound before it counts as outside: shares in float32 are no finer."""


def project(weights: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns the weights whose shares are the nearest ones within bounds.

    Rows within the bounds come back as they are, bit for bit and with their own sum; all others have sum 1.

    Args:
        weights: (..., M), finite, at least 0, not all 0.
        low: (M,) float64 smallest shares, in [0, 1], with sum at most 1.
        high: (M,) float64 largest shares, at least `low`, with sum at least 1.

    Returns:
        (..., M) of the same dtype.
    """
    if weights.ndim > 1 and len(weights) > 1 and weights.stride(0) == 0:  # expanded: the same for every window
        return project(weights[:1], low, high).expand_as(weights)
    exact = weights.double()
    shares = exact / exact.sum(-1, keepdim=True)
    outside = ((shares < low - TOLERANCE) | (shares > high + TOLERANCE)).any(-1)
    if not outside.any():
        return weights
    projected = weights.clone()
    projected[outside] = _nearest(shares[outside], low, high).to(weights.dtype)
    return projected


def _nearest(shares: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns the nearest shares within bounds, of shares (N, M) with sum 1."""
    bends = (
        torch.cat([shares - high, shares - low], -1).sort(-1).values
    )  # (N, 2M) shifts at which a share meets a bound
    sums = (shares[:, None] - bends[..., None]).clamp(low, high).sum(-1)  # (N, 2M), falling from sum(high) to sum(low)
    before = ((sums >= 1.0).sum(-1, keepdim=True) - 1).clamp(
        0, sums.shape[-1] - 2
    )  # the last bend with a sum of at least 1
    (left, right), (above, below) = ((of.gather(-1, before), of.gather(-1, before + 1)) for of in (bends, sums))
    part = torch.where(above > below, (above - 1.0) / (above - below), 0.0).clamp(0.0, 1.0)
    return (shares - left - part * (right - left)).clamp(low, high)


def within_bounds(weights: Tensor, fusion: FusionConfig) -> Tensor:
    """Returns the weights that a merge takes in place of some weights (..., M): the nearest ones within its bounds.

    Without bounds they are the given ones, the same tensor.
    """
    if fusion.bounds is None:
        return weights
    low, high = (torch.tensor(bound, dtype=torch.float64, device=weights.device) for bound in fusion.bounds)
    return project(weights, low, high)
