"""Nearest neighbours on numbers: a window gets the weights that served the most similar policy windows.

Legend: W windows, M recallers, F numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from softgrpo.baselines.boosting import SHARPNESS, Floats, sharpened
from softgrpo.baselines.files import read_arrays, write_arrays
from softgrpo.baselines.inputs import Asked, GateData

COUNTS = (25, 100, 400)
"""Numbers of neighbours; validation chooses."""
ARRAYS = "windows.safetensors"
"""The training windows of a stored gate."""


def neighbours_ndcg(train: Floats, ndcg: Floats, asked: Floats) -> dict[int, Floats]:
    """Returns the mean NDCG of each recaller over the nearest training windows, (W', M), by the number of these windows.

    Args:
        train: (W, F), each number on the same scale: distances are Euclidean.
        ndcg: (W, M) NDCG of each recaller's own list.
        asked: (W', F).
    """
    counts = sorted({min(count, len(train)) for count in COUNTS})
    search = NearestNeighbors(n_neighbors=counts[-1], algorithm="brute").fit(train)
    nearest = search.kneighbors(asked, return_distance=False)  # (W', most), the nearest first
    return {
        count: np.stack([ndcg[:, each][nearest[:, :count]].mean(1) for each in range(ndcg.shape[1])], 1)
        for count in counts
    }


@dataclass(frozen=True)
class FittedNeighbours:
    """The training windows, and how they are read.

    Attributes:
        train: (W, F) float32 standardised numbers of the training windows.
        ndcg: (W, M) float32 NDCG of each recaller's own list on them.
        count: How many of them a window is compared with.
        prior: (M,) log weights that the prediction is multiplied with.
        sharpness: Place of the power of the prediction in `softgrpo.baselines.boosting.SHARPNESS`.
        valid_ndcg: Mean NDCG@`fusion.k` on validation windows.
        choice: What was chosen there, in words.
    """

    train: Tensor
    ndcg: NDArray[np.float32]
    count: int
    prior: Tensor
    sharpness: int
    valid_ndcg: float
    choice: str

    def weights(self, asked: Asked) -> Tensor:
        """Returns the weights (B, M) float64 of windows."""
        train, numbers = (part.numpy().astype(np.float64) for part in (self.train, asked.numbers))
        predicted = neighbours_ndcg(train, self.ndcg.astype(np.float64), numbers)[self.count]
        return sharpened(predicted, self.prior)[:, self.sharpness]

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the training windows, and returns how they are read."""
        write_arrays(folder / ARRAYS, {"numbers": self.train, "ndcg": torch.from_numpy(self.ndcg)})
        return {"count": self.count, "prior": self.prior.tolist(), "sharpness": self.sharpness}

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """Reads what `save` wrote."""
        stored = read_arrays(folder / ARRAYS)
        prior, ndcg = torch.tensor(card["prior"], dtype=torch.float64), stored["ndcg"].numpy()
        return cls(stored["numbers"], ndcg, card["count"], prior, card["sharpness"], card["valid_ndcg"], card["choice"])


def fit_neighbours(data: GateData) -> FittedNeighbours:
    """Weighs recallers by their NDCG over the nearest training windows.

    Validation chooses how many windows, the prior (static mixture or none) and the sharpness.
    """
    train, valid = (part.numpy().astype(np.float64) for part in data.numbers)
    on_valid = neighbours_ndcg(train, data.train_ndcg.astype(np.float64), valid)
    best: FittedNeighbours | None = None
    for name, prior in {"times the static mixture": data.prior, "alone": torch.zeros_like(data.prior)}.items():
        for count, predicted in on_valid.items():
            scores = data.valid_ndcg(sharpened(predicted, prior))
            place = int(scores.argmax())
            if best is None or float(scores[place]) > best.valid_ndcg:
                choice = f"{count} neighbours, {name}, power {SHARPNESS[place]:g}"
                score = float(scores[place])
                best = FittedNeighbours(data.numbers[0], data.train_ndcg, count, prior, place, score, choice)
    assert best is not None
    return best
