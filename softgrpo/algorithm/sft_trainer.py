"""Supervised fine-tuning on which recaller served the user best: labels, loss, trainer.

Legend: W windows, B batch, M recallers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softgrpo.algorithm.batching import policy_logits
from softgrpo.algorithm.prompt_trainer import PromptTrainer
from softgrpo.errors import TrainingError

LABEL_TOLERANCE = 1e-3
"""By how much the sum of a row of labels may miss 1; bfloat16 is no finer than this."""


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
        raise TrainingError(f"labels of shape {tuple(labels.shape)}", rule, remedy, code="TRAINING-008")
    outside = ~((labels >= 0) & (labels <= 1))  # NaN too
    if outside.any():
        raise TrainingError(f"a label of {labels[outside][0].item():g}", rule, remedy, code="TRAINING-009")
    sums = labels.sum(1)
    wrong = (sums - 1).abs() > LABEL_TOLERANCE
    if wrong.any():
        raise TrainingError(f"labels of a row that sum to {sums[wrong][0].item():g}", rule, remedy, code="TRAINING-010")


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
