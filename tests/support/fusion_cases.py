"""Random candidate lists and plain-Python merges, one window and one weight vector at a time: the oracles of the fusion tests."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

Lists = list[list[int]]
Values = list[list[float]]


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[Lists], list[Values]]:
    """Lists of 1..3 windows and 1..4 recallers over few items, so that overlaps, ties, short and empty lists are common."""
    batch, recallers = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    ids = st.lists(st.integers(0, 9), unique=True, max_size=6)
    items = [[draw(ids) for _ in range(recallers)] for _ in range(batch)]
    levels = st.integers(-4, 4)  # few levels: equal scores within a list
    scores = [[sorted((float(draw(levels)) for _ in row), reverse=True) for row in window] for window in items]
    return items, scores


@st.composite
def weights_for(draw: st.DrawFn, batch: int, recallers: int, samples: int = 2) -> NDArray[np.float64]:
    """Weights in quarters, zeros included, never all zero; sums of quarters are exact, so ties are real ties."""
    row = st.lists(st.integers(0, 4), min_size=recallers, max_size=recallers).filter(any)
    return np.array([[draw(row) for _ in range(samples)] for _ in range(batch)], dtype=np.float64) / 4


def pad(items: list[Lists], scores: list[Values]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (B, M, D) tensors, -1 and NaN behind the end of a list."""
    depth = max(1, max(len(row) for window in items for row in window))
    shape = (len(items), len(items[0]), depth)
    ids, values = torch.full(shape, -1), torch.full(shape, torch.nan)
    for b, window in enumerate(items):
        for m, row in enumerate(window):
            ids[b, m, : len(row)] = torch.tensor(row, dtype=torch.int64)
            values[b, m, : len(row)] = torch.tensor(scores[b][m])
    return ids, values


def best_rank(lists: Lists, weights: NDArray[np.float64], item: int) -> int:
    """Best rank of an item over the lists that have weight."""
    return min(row.index(item) for row, weight in zip(lists, weights, strict=True) if weight > 0 and item in row)


def merge_by_value(lists: Lists, values: Values, weights: NDArray[np.float64]) -> list[int]:
    """Weighted sum in float32, in pool order; then best rank, then item id."""
    heard = [m for m, weight in enumerate(weights) if weight > 0]
    union = {item for m in heard for item in lists[m]}

    def key(item: int) -> tuple[float, int, int]:
        total = np.float32(0)
        for m in heard:
            value = np.float32(values[m][lists[m].index(item)]) if item in lists[m] else np.float32(0)
            total = np.float32(total + np.float32(value * np.float32(weights[m])))
        return -float(total), best_rank(lists, weights, item), item

    return sorted(union, key=key)


def merge_by_quota(lists: Lists, weights: NDArray[np.float64]) -> list[int]:
    """Prefix quota, written as it is described."""
    share = weights / weights.sum()
    taken, merged = [0] * len(lists), []
    while True:
        step = len(merged) + 1
        turns = []
        for m, row in enumerate(lists):
            unused = [item for item in row if item not in merged]
            if weights[m] > 0 and unused:
                turns.append((-(share[m] * step - taken[m]), best_rank(lists, weights, unused[0]), unused[0], m))
        if not turns:
            return merged
        *_, item, m = min(turns)
        merged.append(item)
        taken[m] += 1
