"""Labels of supervised fine-tuning: which recaller served a user best. Legend: W windows, M recallers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.config import LabelConfig


def make_labels(ndcg: NDArray[np.float32], config: LabelConfig) -> NDArray[np.float32]:
    """Returns the label distribution of every window, of kind hard or soft.

    hard: all weight on the best recaller, shared equally by ties; soft: softmax(NDCG / temperature). A window in which no
    recaller hits gets the uniform distribution either way.

    Args:
        ndcg: (W, M) NDCG@k of each recaller's own list.
        config: Kind, temperature, smoothing.

    Returns:
        (W, M) float32, rows sum to 1.
    """
    assert config.kind != "gate", "a gate's labels are no function of this window's NDCG"
    if config.kind == "hard":
        best = ndcg == ndcg.max(1, keepdims=True)
        labels = best / best.sum(1, keepdims=True)
    else:
        scaled = ndcg / config.temperature
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        labels = powers / powers.sum(1, keepdims=True)
    return smooth(labels, config.smoothing)


def smooth(labels: NDArray[np.float64], smoothing: float) -> NDArray[np.float32]:
    """Returns labels (W, M) moved by `smoothing` in [0, 1] towards the uniform distribution, float32."""
    smoothed: NDArray[np.float64] = (1.0 - smoothing) * labels + smoothing / labels.shape[1]
    return smoothed.astype(np.float32)


def make_class_weights(labels: NDArray[np.float32], config: LabelConfig) -> NDArray[np.float32]:
    """Returns the weight of each recaller in the loss.

    none: 1 for all. balanced: `weight_m = W / (M' sum_w label_wm)` with M' the recallers that have any label; those without
    get 0, which changes nothing. The weights have mean 1 over the labels, so the loss keeps its size:
    `sum_wm label_wm weight_m = W`. With hard labels without ties it is what scikit-learn calls balanced.

    Args:
        labels: (W, M) of the training windows.
        config: Which of the two.

    Returns:
        (M,) float32, not negative.
    """
    mass = labels.sum(0, dtype=np.float64)
    if config.class_weights == "none":
        return np.ones(len(mass), dtype=np.float32)
    weights: NDArray[np.float32] = np.zeros(len(mass), dtype=np.float32)
    weights[mass > 0] = len(labels) / ((mass > 0).sum() * mass[mass > 0])
    return weights
