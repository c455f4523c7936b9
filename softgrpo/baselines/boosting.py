"""Boosted trees on numbers: they predict each recaller's NDCG, or the best recaller. Legend: W windows, M recallers, F numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor

from softgrpo.baselines.inputs import GateData, GateWeights

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

Floats = NDArray[np.float64]


def predict_ndcg(train: Floats, ndcg: NDArray[np.float32], asked: list[Floats], seed: int) -> list[Floats]:
    """Returns the NDCG that trees expect of each recaller, (W, M) for each of the numbers asked.

    Args:
        train: (W, F).
        ndcg: (W, M), what to predict.
        asked: Numbers (W', F) of other windows.
        seed: Of the trees.
    """
    columns = []
    for target in ndcg.T:
        trees = HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **TREES).fit(train, target)
        columns.append([trees.predict(numbers) for numbers in asked])
    return [np.stack(pieces, axis=1) for pieces in zip(*columns, strict=True)]


def predict_best(train: Floats, ndcg: NDArray[np.float32], asked: list[Floats], seed: int) -> list[Floats]:
    """Returns the probability that trees give each recaller to be the best, (W, M) for each of the numbers asked.

    Windows in which several are best count for each in equal shares; those without a hit say nothing. Where one recaller is
    the best of every window, it has probability 1.

    Args:
        train: (W, F).
        ndcg: (W, M) NDCG of each recaller's own list.
        asked: Numbers (W', F) of other windows.
        seed: Of the trees.
    """
    best = (ndcg == ndcg.max(1, keepdims=True)) & (ndcg > 0)
    window, label = np.nonzero(best)
    sums = [np.zeros((len(numbers), ndcg.shape[1])) for numbers in asked]
    classes = np.unique(label)
    if len(classes) == 1:
        for values in sums:
            values[:, classes] = 1.0
    elif len(classes) > 1:
        trees = HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **TREES)
        trees.fit(train[window], label, sample_weight=1.0 / best.sum(1)[window])
        for values, numbers in zip(sums, asked, strict=True):
            values[:, trees.classes_] = trees.predict_proba(numbers)
    return sums


def sharpened(predicted: Floats, prior: Tensor) -> Tensor:
    """Returns weights (W, S, M) in proportion to `prior * predicted ** s` for each sharpness s.

    Args:
        predicted: (W, M); values below 0.001 are raised to it.
        prior: (M,) log weights.
    """
    values = torch.from_numpy(np.maximum(predicted, SMALLEST)).log()
    return torch.stack([(prior.double() + power * values).softmax(-1) for power in SHARPNESS], dim=1)


def fit_boosting(data: GateData) -> GateWeights:
    """Fits both kinds of trees on the training windows; validation chooses kind, prior (static mixture or none) and sharpness."""
    train, valid, test = (part.numpy().astype(np.float64) for part in data.numbers)
    priors = {"times the static mixture": data.prior, "alone": torch.zeros_like(data.prior)}
    best = GateWeights.worst()
    for kind, predict in (("NDCG of each recaller", predict_ndcg), ("best recaller", predict_best)):
        on_valid, on_test = predict(train, data.train_ndcg, [valid, test], data.seed)
        for name, prior in priors.items():
            scores = data.valid_ndcg(sharpened(on_valid, prior))
            place = int(scores.argmax())
            if float(scores[place]) > best.valid_ndcg:
                weights = sharpened(on_test, prior)[:, place]
                choice = f"trees for the {kind}, {name}, power {SHARPNESS[place]:g}"
                best = GateWeights(weights, float(scores[place]), choice)
    return best
