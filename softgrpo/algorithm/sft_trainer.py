"""Supervised fine-tuning on which recaller served the user best: labels, loss, trainer.

Legend: W windows, B batch, M recallers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softgrpo.algorithm.batching import policy_logits
from softgrpo.config import LabelConfig
from softgrpo.errors import TrainingError
from softgrpo.algorithm.prompt_trainer import PromptTrainer

LABEL_TOLERANCE = 1e-3
"""By how much the sum of a row of labels may miss 1; bfloat16 is no finer than this."""


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


def soft_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Returns `-mean_b sum_m weight_m label_m log softmax(z)_m`.

    Args:
        logits: (B, M).
        labels: (B, M), rows sum to 1.
        class_weights: (M,); None is 1 for all.
    """
    weighted = labels if class_weights is None else labels * class_weights
    return -(weighted * logits.float().log_softmax(-1)).sum(-1).mean()


def check_labels(labels: Tensor, classes: int) -> None:
    """Checks that labels are distributions over the classes.

    Args:
        labels: (B, M).
        classes: M.

    Raises:
        TrainingError: Another shape, a label outside [0, 1] or not a number, or a row that does not sum to 1.
    """
    rule = f"the labels of a batch are (B, {classes}) numbers from 0 to 1 whose rows sum to 1"
    remedy = "Make them with softgrpo.stages.labels.make_labels"
    if labels.ndim != 2 or labels.shape[1] != classes:
        raise TrainingError(f"labels of shape {tuple(labels.shape)}", rule, remedy)
    outside = ~((labels >= 0) & (labels <= 1))  # NaN too
    if outside.any():
        raise TrainingError(f"a label of {labels[outside][0].item():g}", rule, remedy)
    sums = labels.sum(1)
    wrong = (sums - 1).abs() > LABEL_TOLERANCE
    if wrong.any():
        raise TrainingError(f"labels of a row that sum to {sums[wrong][0].item():g}", rule, remedy)


class RecallerSFTTrainer(PromptTrainer):
    """A Trainer whose rows carry a label distribution (M,) under `label`.

    Args:
        class_weights: (M,) weight of each class in the loss; None is 1 for all.
        **kwargs: For `transformers.Trainer`.
    """

    def __init__(self, class_weights: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._class_weights = class_weights

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Returns the soft cross-entropy of one batch.

        Raises:
            TrainingError: A label breaks a rule of `check_labels`.
        """
        logits, labels = policy_logits(model, inputs), inputs["label"].to(torch.float32)
        check_labels(labels, logits.shape[-1])
        weights = None if self._class_weights is None else self._class_weights.to(labels.device)
        return soft_cross_entropy(logits, labels, weights)
