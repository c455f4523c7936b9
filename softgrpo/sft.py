"""Supervised fine-tuning on which recaller served the user best: labels, loss, trainer. Legend: W windows, M recallers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softgrpo.config import LabelConfig
from softgrpo.training import LogitsEvaluation, policy_logits


def make_labels(ndcg: NDArray[np.float32], config: LabelConfig) -> NDArray[np.float32]:
    """Returns the label distribution of every window.

    hard: all weight on the best recaller, shared equally by ties; soft: softmax(NDCG / temperature). A window in which no
    recaller hits gets the uniform distribution either way.

    Args:
        ndcg: (W, M) NDCG@k of each recaller's own list.
        config: Kind, temperature, smoothing.

    Returns:
        (W, M) float32, rows sum to 1.
    """
    if config.kind == "hard":
        best = ndcg == ndcg.max(1, keepdims=True)
        labels = best / best.sum(1, keepdims=True)
    else:
        scaled = ndcg / config.temperature
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        labels = powers / powers.sum(1, keepdims=True)
    smoothed: NDArray[np.float64] = (1.0 - config.smoothing) * labels + config.smoothing / ndcg.shape[1]
    return smoothed.astype(np.float32)


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns `-mean_b sum_m label_m log softmax(z)_m`.

    Args:
        logits: (B, M).
        labels: (B, M), rows sum to 1.
    """
    return -(labels * logits.float().log_softmax(-1)).sum(-1).mean()


class RecallerSFTTrainer(LogitsEvaluation):
    """A Trainer whose rows carry a label distribution (M,) under `label`."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Returns the soft cross-entropy of one batch."""
        return soft_cross_entropy(policy_logits(model, inputs), inputs["label"].to(torch.float32))
