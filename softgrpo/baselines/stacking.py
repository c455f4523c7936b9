"""Feature-weighted linear stacking: weights that are linear in the numbers of a window. Legend: W windows, M recallers, F numbers.

Sill et al. (2009), "Feature-Weighted Linear Stacking", arXiv 0911.0460: the blend of an item is the sum over recallers m and
numbers j of `v_mj f_j(window) value_m(item)`, fitted by least squares; here to 1 for targets and 0 for all other listed items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from softgrpo.baselines.files import read_arrays, write_arrays
from softgrpo.baselines.inputs import Asked, GateData
from softgrpo.ranking.aligned import Aligned

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)
"""Ridge penalties, relative to the mean of the diagonal; validation chooses."""
CHUNK = 2048
ARRAYS = "coefficients.safetensors"
"""The arrays of a stored gate."""


def normal_equations(aligned: Aligned, positions: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sums of least squares over all listed items, without making a row per item.

    The row of an item is the outer product of the window's numbers and the item's values, so both sums factor by window.

    Args:
        aligned: Lists of W windows.
        positions: (W, T) from `softgrpo.ranking.aligned.target_positions`.
        numbers: (W, J) float64.

    Returns:
        (M J, M J) sum of products, and (M J,) sum of rows of targets; place `m J + j` is recaller m, number j.
    """
    recallers, count = aligned.num_recallers, numbers.shape[1]
    products = torch.zeros(recallers, count, recallers, count, dtype=torch.float64)
    hits = torch.zeros(recallers, count, dtype=torch.float64)
    for begin in range(0, len(aligned), CHUNK):
        part = slice(begin, begin + CHUNK)
        values, seen = aligned.values[part].double(), numbers[part]
        products += torch.einsum("wmn,wj,wk->mjnk", torch.einsum("wmc,wnc->wmn", values, values), seen, seen)
        place = positions[part]
        target_values = values.gather(2, place.clamp(min=0)[:, None].expand(-1, recallers, -1)) * (place >= 0)[:, None]
        hits += torch.einsum("wmt,wj->mj", target_values, seen)
    size = recallers * count
    return products.reshape(size, size), hits.reshape(size)


def solve(products: Tensor, hits: Tensor, constant: Tensor, penalty: float) -> Tensor:
    """Returns the coefficients (M, J) of ridge regression; those of the constant are hardly penalised.

    Args:
        products: (M J, M J) from `normal_equations`.
        hits: (M J,) from `normal_equations`.
        constant: (J,) bool, which number is the constant.
        penalty: Relative to the mean of the diagonal.
    """
    recallers = len(hits) // len(constant)
    scale = products.diagonal().mean().clamp(min=1e-12)
    penalties = torch.where(constant, 1e-9, penalty).repeat(recallers) * scale
    coefficients: Tensor = torch.linalg.solve(products + penalties.diag(), hits)
    return coefficients.reshape(recallers, len(constant))


def linear_weights(coefficients: Tensor, numbers: Tensor, static: Tensor) -> Tensor:
    """Returns weights (W, M) with sum 1: negative ones are raised to 0, and where none is left the static mixture stands in.

    Args:
        coefficients: (M, J).
        numbers: (W, J).
        static: (M,).
    """
    weights = (numbers @ coefficients.T).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-300), static)


@dataclass(frozen=True)
class FittedStacking:
    """Linear weights.

    Attributes:
        coefficients: (M, J) float64; the last of the J numbers is the constant.
        static: (M,) float64, what stands in where no weight is positive.
        valid_ndcg: Mean NDCG@`fusion.k` on validation windows.
        choice: What was chosen there, in words.
    """

    coefficients: Tensor
    static: Tensor
    valid_ndcg: float
    choice: str

    def weights(self, asked: Asked) -> Tensor:
        """Returns the weights (B, M) float64 of windows."""
        return linear_weights(self.coefficients, _with_constant(asked.numbers), self.static)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the coefficients; nothing else is to be kept."""
        write_arrays(folder / ARRAYS, {"coefficients": self.coefficients, "static": self.static})
        return {}

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """Reads what `save` wrote."""
        stored = read_arrays(folder / ARRAYS)
        return cls(stored["coefficients"], stored["static"], card["valid_ndcg"], card["choice"])


def _with_constant(numbers: Tensor) -> Tensor:
    """Returns numbers (W, F) as float64 (W, F + 1) with a constant 1 behind them."""
    return torch.nn.functional.pad(numbers.double(), (0, 1), value=1.0)


def fit_stacking(data: GateData) -> FittedStacking:
    """Fits on the training windows; validation chooses the penalty."""
    train, valid = (_with_constant(part) for part in data.numbers)
    products, hits = normal_equations(data.train.aligned, data.train.positions, train)
    constant = torch.zeros(train.shape[1], dtype=torch.bool)
    constant[-1] = True
    fitted = [solve(products, hits, constant, penalty) for penalty in PENALTIES]
    tried = torch.stack([linear_weights(coefficients, valid, data.static) for coefficients in fitted], dim=1)
    scores = data.valid_ndcg(tried)
    best = int(scores.argmax())
    return FittedStacking(fitted[best], data.static, float(scores[best]), f"ridge penalty {PENALTIES[best]:g}")
