"""Nearest neighbours on numbers: a window gets the weights that served the most similar policy windows.

Legend: W windows, M recallers, F numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from softgrpo.baselines.boosting import SHARPNESS, Floats, sharpened
from softgrpo.baselines.inputs import GateData, GateWeights

COUNTS = (25, 100, 400)
"""Numbers of neighbours; validation chooses."""


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


def fit_neighbours(data: GateData) -> GateWeights:
    """Weighs recallers by their NDCG over the nearest training windows.

    Validation chooses how many windows, the prior (static mixture or none) and the sharpness.
    """
    train, valid, test = (part.numpy().astype(np.float64) for part in data.numbers)
    ndcg = data.train_ndcg.astype(np.float64)
    on_valid, on_test = (neighbours_ndcg(train, ndcg, asked) for asked in (valid, test))
    best = GateWeights.worst()
    for name, prior in {"times the static mixture": data.prior, "alone": torch.zeros_like(data.prior)}.items():
        for count, predicted in on_valid.items():
            scores = data.valid_ndcg(sharpened(predicted, prior))
            place = int(scores.argmax())
            if float(scores[place]) > best.valid_ndcg:
                weights = sharpened(on_test[count], prior)[:, place]
                choice = f"{count} neighbours, {name}, power {SHARPNESS[place]:g}"
                best = GateWeights(weights, float(scores[place]), choice)
    return best
