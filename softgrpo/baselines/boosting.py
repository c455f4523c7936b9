"""Boosted trees on numbers: they predict each recaller's NDCG, or the best recaller. Legend: W windows, M recallers, F numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor

from softgrpo.baselines.files import read_trees, write_trees
from softgrpo.baselines.inputs import Asked, GateData

TREES: dict[str, float | int] = {
    "learning_rate": 0.05,
    "max_iter": 150,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 40,
    "l2_regularization": 1.0,
}
SHARPNESS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Powers of what the trees say, times the prior; 0 is the prior alone. Validation chooses."""
SMALLEST = 1e-3
STORED = "trees.skops"
"""The trees of a stored gate."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NDCGTrees:
    """Trees that predict the NDCG of each recaller, one set for each."""

    trees: tuple[HistGradientBoostingRegressor, ...]

    def predict(self, numbers: Floats) -> Floats:
        """Returns the NDCG (W, M) that they expect for numbers (W, F)."""
        return np.stack([trees.predict(numbers) for trees in self.trees], axis=1)


@dataclass(frozen=True)
class BestTrees:
    """Trees that predict which recaller is best.

    Attributes:
        trees: None where at most one recaller ever is.
        classes: Places of the recallers that are best somewhere.
        recallers: M.
    """

    trees: HistGradientBoostingClassifier | None
    classes: tuple[int, ...]
    recallers: int

    def predict(self, numbers: Floats) -> Floats:
        """Returns the probability (W, M) of each recaller to be the best; all 0 where none ever is."""
        values = np.zeros((len(numbers), self.recallers))
        if self.classes:
            values[:, list(self.classes)] = 1.0 if self.trees is None else self.trees.predict_proba(numbers)
        return values


Trees = NDCGTrees | BestTrees


def fit_ndcg(train: Floats, ndcg: NDArray[np.float32], seed: int) -> NDCGTrees:
    """Fits trees that predict the NDCG of each recaller.

    Args:
        train: (W, F).
        ndcg: (W, M), what to predict.
        seed: Of the trees.
    """
    kinds = (HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **TREES) for _ in ndcg.T)
    return NDCGTrees(tuple(trees.fit(train, target) for trees, target in zip(kinds, ndcg.T, strict=True)))


def fit_best(train: Floats, ndcg: NDArray[np.float32], seed: int) -> BestTrees:
    """Fits trees that give each recaller's probability to be the best.

    Windows in which several are best count for each in equal shares; those without a hit say nothing. Where one recaller is
    the best of every window, it has probability 1.

    Args:
        train: (W, F).
        ndcg: (W, M) NDCG of each recaller's own list.
        seed: Of the trees.
    """
    best = (ndcg == ndcg.max(1, keepdims=True)) & (ndcg > 0)
    window, label = np.nonzero(best)
    classes = tuple(int(place) for place in np.unique(label))
    if len(classes) < 2:
        return BestTrees(None, classes, ndcg.shape[1])
    trees = HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **TREES)
    trees.fit(train[window], label, sample_weight=1.0 / best.sum(1)[window])
    return BestTrees(trees, classes, ndcg.shape[1])


def sharpened(predicted: Floats, prior: Tensor) -> Tensor:
    """Returns weights (W, S, M) in proportion to `prior * predicted ** s` for each sharpness s.

    Args:
        predicted: (W, M); values below 0.001 are raised to it.
        prior: (M,) log weights.
    """
    values = torch.from_numpy(np.maximum(predicted, SMALLEST)).log()
    return torch.stack([(prior.double() + power * values).softmax(-1) for power in SHARPNESS], dim=1)


@dataclass(frozen=True)
class FittedTrees:
    """Trees as they were best on validation windows.

    Attributes:
        trees: What they predict from standardised numbers.
        prior: (M,) log weights that the prediction is multiplied with.
        sharpness: Place of the power of the prediction in `SHARPNESS`.
        valid_ndcg: Mean NDCG@`fusion.k` on validation windows.
        choice: What was chosen there, in words.
    """

    trees: Trees
    prior: Tensor
    sharpness: int
    valid_ndcg: float
    choice: str

    def weights(self, asked: Asked) -> Tensor:
        """Returns the weights (B, M) float64 of windows."""
        predicted = self.trees.predict(asked.numbers.numpy().astype(np.float64))
        return sharpened(predicted, self.prior)[:, self.sharpness]

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the trees, and returns how they are read."""
        trees = self.trees
        write_trees(folder / STORED, trees.trees if isinstance(trees, BestTrees) else list(trees.trees))
        own = {"classes": trees.classes, "recallers": trees.recallers} if isinstance(trees, BestTrees) else {}
        return {"prior": self.prior.tolist(), "sharpness": self.sharpness, **own}

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """Reads what `save` wrote."""
        stored = read_trees(folder / STORED)
        if "classes" in card:
            trees: Trees = BestTrees(stored, tuple(card["classes"]), card["recallers"])
        else:
            trees = NDCGTrees(tuple(stored))
        prior = torch.tensor(card["prior"], dtype=torch.float64)
        return cls(trees, prior, card["sharpness"], card["valid_ndcg"], card["choice"])


def fit_trees(data: GateData) -> FittedTrees:
    """Fits both kinds of trees on the training windows; validation chooses kind, prior (static mixture or none) and sharpness."""
    train, valid = (part.numpy().astype(np.float64) for part in data.numbers)
    priors = {"times the static mixture": data.prior, "alone": torch.zeros_like(data.prior)}
    best: FittedTrees | None = None
    kinds: dict[str, Callable[[Floats, NDArray[np.float32], int], Trees]]
    kinds = {"NDCG of each recaller": fit_ndcg, "best recaller": fit_best}
    for kind, fit in kinds.items():
        trees = fit(train, data.train_ndcg, data.seed)
        on_valid = trees.predict(valid)
        for name, prior in priors.items():
            scores = data.valid_ndcg(sharpened(on_valid, prior))
            place = int(scores.argmax())
            if best is None or float(scores[place]) > best.valid_ndcg:
                choice = f"trees for the {kind}, {name}, power {SHARPNESS[place]:g}"
                best = FittedTrees(trees, prior, place, float(scores[place]), choice)
    assert best is not None
    return best
