"""How the scores of a list are spread. Scores are as the recaller gives them; only the entropy is on one scale for all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.policy.blocks.block import TOP, Block, Known, Numbers, chunks

_NAMES = ("first score", "lead over the second", f"lead over place {TOP}", "mean score", "spread of scores", "entropy")


def _compute(known: Known) -> Numbers:
    count, recallers = known.lists.items.shape[:2]
    values = np.zeros((len(_NAMES), count, recallers), dtype=np.float32)
    for part in chunks(count):
        values[:, part] = _shape(known.lists.scores[part])
    return dict(zip(_NAMES, values, strict=True))


def _shape(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the six numbers (6, w, M) of lists (w, M, D); 0 where a list is empty.

    The entropy is that of the softmax of the first scores, as a share of the largest possible, after the whole list has got mean
    0 and standard deviation 1.
    """
    listed = ~np.isnan(scores)
    filled = listed.sum(2)  # (w, M)
    size = np.maximum(filled, 1)
    first, second, tenth = (
        np.take_along_axis(scores, np.clip(filled - 1, 0, place)[:, :, None], 2)[:, :, 0] for place in (0, 1, TOP - 1)
    )
    mean = np.where(listed, scores, 0.0).sum(2) / size
    centred = np.where(listed, scores - mean[:, :, None], 0.0)
    spread = np.sqrt((centred**2).sum(2) / size)
    standard = centred / np.maximum(spread, 1e-12)[:, :, None]
    top = listed[:, :, :TOP]
    odds = np.where(top, np.exp(standard[:, :, :TOP] - standard[:, :, :1]), 0.0)
    share = odds / np.maximum(odds.sum(2, keepdims=True), 1e-12)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(2) / np.log(np.maximum(top.sum(2), 2))
    numbers = np.stack([first, first - second, first - tenth, mean, spread, entropy])
    return np.where(filled > 0, numbers, 0.0).astype(np.float32)


SHAPE = Block("shape", _compute, {"spread of scores": "spread", "entropy": "doubt"})
