"""Whether a policy's first choice is the best recaller: accuracy, macro-F1 and confusion matrix on validation windows.

A window in which no recaller finds a target has no best one and is left out here (never from NDCG). Where several are best,
any of them is right; a choice of none of them counts against each in equal shares. Legend: W windows, M recallers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score
from transformers import EvalPrediction

PREFIX = "confusion"


def best_and_chosen(
    choice: NDArray[np.int64], ndcg: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Returns what is compared as pairs: the best recaller, the chosen one and the share of a window, (P,) each.

    Args:
        choice: (W,) chosen recaller of each window.
        ndcg: (W, M) NDCG@k of each recaller's own list.
    """
    best = (ndcg == ndcg.max(1, keepdims=True)) & (ndcg > 0)
    right = best[np.arange(len(choice)), choice]
    best[right] = np.eye(ndcg.shape[1], dtype=bool)[choice[right]]
    window, truth = np.nonzero(best)
    return truth, choice[window], 1.0 / best.sum(1)[window]


def choice_metrics(ndcg: NDArray[np.float32], recallers: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Returns a metric function over validation windows.

    Args:
        ndcg: (W, M) NDCG@k of each recaller's own list on them.
        recallers: The M names.

    Returns:
        A function that gives windows_with_a_best (those that count here), `confusion/<best>/<chosen>` (windows), and, where
        any counts, accuracy and macro_f1 (mean over recallers that are best or chosen anywhere).
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        rows = np.asarray(prediction.label_ids)
        truth, chosen, share = best_and_chosen(np.asarray(prediction.predictions).argmax(1), ndcg[rows])
        if not len(truth):
            return {"windows_with_a_best": 0.0}
        matrix = confusion_matrix(truth, chosen, labels=range(len(recallers)), sample_weight=share)
        f1 = f1_score(truth, chosen, average="macro", sample_weight=share, zero_division=0.0)
        total = float(matrix.sum())
        metrics = {
            "windows_with_a_best": total,
            "accuracy": float(np.trace(matrix)) / total,
            "macro_f1": float(f1),
        }
        return metrics | {
            f"{PREFIX}/{best}/{choice}": float(matrix[row, column])
            for row, best in enumerate(recallers)
            for column, choice in enumerate(recallers)
        }

    return compute


def confusion_table(values: dict[str, Any], recallers: Sequence[str]) -> pd.DataFrame:
    """Returns the confusion matrix among the numbers of one evaluation: best recaller by row, chosen by column, windows.

    Args:
        values: Numbers with names as `choice_metrics` gives them; missing ones are 0.
        recallers: The M names.
    """
    cells = [[values.get(f"{PREFIX}/{best}/{choice}", 0.0) for choice in recallers] for best in recallers]
    return pd.DataFrame(cells, index=pd.Index(recallers, name="best"), columns=list(recallers), dtype=np.float64)
