"""How high other lists rank the first items of a list. Legend: w windows of a chunk, M recallers, D depth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.policy.blocks.block import Block, Known, Numbers, chunks

FIRST = 3
"""How many first items of a list are looked for."""


def _compute(known: Known) -> Numbers:
    count, recallers = known.lists.items.shape[:2]
    found = np.zeros((count, recallers), dtype=np.float32)
    for part in chunks(count):
        items = known.lists.items[part]
        for one in range(recallers):
            others = [
                _mean_reciprocal_rank(items[:, one, :FIRST], items[:, other])
                for other in range(recallers)
                if other != one
            ]
            found[part, one] = sum(others) / len(others)
    return {f"rank of its first {FIRST} elsewhere": found}


def _mean_reciprocal_rank(wanted: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float32]:
    """Returns the mean of 1 / rank in a list (w, D) over the wanted items (w, n), 0 for one that is not there, as (w,)."""
    there = (wanted[:, :, None] == items[:, None, :]) & (wanted >= 0)[:, :, None]
    reciprocal = np.where(there.any(2), 1.0 / (there.argmax(2) + 1.0), 0.0)
    mean: NDArray[np.float32] = (reciprocal.sum(1) / np.maximum((wanted >= 0).sum(1), 1)).astype(np.float32)
    return mean


AGREEMENT = Block("agreement", _compute, {f"rank of its first {FIRST} elsewhere": "agreement"})
