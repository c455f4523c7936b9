"""One static mixture for short, one for middle and one for long histories. Legend: W windows, M recallers, P points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.baselines.inputs import Asked, GateData
from softgrpo.baselines.static_mixture import weight_grid
from softgrpo.ranking.searched import SearchedLists

NAMES = ("short", "middle", "long")
STEPS = 10
"""Weights are multiples of 1/STEPS, see `softgrpo.baselines.static_mixture.weight_grid`."""


def third_of(history: NDArray[np.integer], bounds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns 0, 1 or 2 for each history (W,): not longer than the first bound, than the second, longer than both."""
    return np.searchsorted(bounds, history, side="left").astype(np.int64)


@dataclass(frozen=True)
class FittedThirds:
    """Weights for each third of the history length.

    Attributes:
        bounds: (2,) the longest short and the longest middle history, in items.
        mixtures: (3, M) float64, the weights of short, middle and long histories.
        valid_ndcg: Mean NDCG@`fusion.k` on validation windows.
        choice: What was chosen there, in words.
    """

    bounds: NDArray[np.float64]
    mixtures: Tensor
    valid_ndcg: float
    choice: str

    def weights(self, asked: Asked) -> Tensor:
        """Returns the weights (B, M) float64 of windows whose history is known."""
        assert asked.history is not None, "softgrpo.baselines.gates.Gate asks for it"
        return self.mixtures[torch.from_numpy(third_of(asked.history, self.bounds))]

    def save(self, folder: Path) -> dict[str, Any]:
        """Returns all of it; there is nothing to write."""
        return {"bounds": self.bounds.tolist(), "mixtures": self.mixtures.tolist()}

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """Returns what `save` returned."""
        mixtures = torch.tensor(card["mixtures"], dtype=torch.float64)
        return cls(np.array(card["bounds"], dtype=np.float64), mixtures, card["valid_ndcg"], card["choice"])


def fit_thirds(data: GateData) -> FittedThirds:
    """Searches the best weights of each third of the training windows by history length.

    A third keeps the static mixture where that is not worse on its validation windows; so does one without windows to learn from
    or to choose on.
    """
    bounds = np.quantile(data.history[0], [1 / 3, 2 / 3])
    train, valid = (torch.from_numpy(third_of(history, bounds)) for history in data.history)
    grid = weight_grid(data.num_recallers, STEPS, data.seed)
    mixtures, kept = [], []
    for third, name in enumerate(NAMES):
        own = _better(data, torch.nonzero(train == third)[:, 0], torch.nonzero(valid == third)[:, 0], grid)
        mixtures.append(data.static if own is None else own)
        if own is not None:
            kept.append(name)
    by_third = torch.stack(mixtures)
    score = float(data.valid_ndcg(by_third[valid][:, None])[0])
    own_weights = f"own weights for {' and '.join(kept)} histories" if kept else "the static mixture for all"
    choice = f"{own_weights}; thirds end at {int(bounds[0])} and {int(bounds[1])} items"
    return FittedThirds(bounds, by_third, score, choice)


def _better(data: GateData, train: Tensor, valid: Tensor, grid: Tensor) -> Tensor | None:
    """Returns the best weights (M,) of a grid (P, M) on some training windows; None if the static mixture is as good."""
    if not len(train) or not len(valid):
        return None
    own = grid[SearchedLists.of(data.train.select(train)).mean_ndcg(grid).argmax()]
    scores = SearchedLists.of(data.valid.select(valid)).mean_ndcg(torch.stack([data.static, own]))
    return own if scores[1] > scores[0] else None
