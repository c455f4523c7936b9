"""The best items of rows of scores, without those of the histories. Legend: D depth, B windows of a batch, I items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def mask_history(scores: torch.Tensor, histories: Sequence[NDArray[np.int32]]) -> None:
    """Puts -inf into scores (B, I) at the items of each row's history."""
    rows = torch.from_numpy(np.repeat(np.arange(len(histories)), [len(history) for history in histories]))
    columns = torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *histories]))
    missing = torch.tensor(-torch.inf, dtype=scores.dtype, device=scores.device)
    scores.index_put_((rows.to(scores.device), columns.to(scores.device)), missing)


def top_items(scores: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the best scores and their item ids, both (B, min(D, I)), descending; equal finite scores by lower item id.

    `topk` alone takes any of equal scores, in any order. So rows with equal scores among their best, the place behind the last
    one included, are sorted by item id first.
    """
    width = min(depth, scores.shape[1])
    values, items = _topk(scores, min(depth + 1, scores.shape[1]))
    equal = (values[:, 1:] == values[:, :-1]) & torch.isfinite(values[:, 1:])
    if (tied := equal.any(1)).any():
        ids, by_id = items[tied].sort(dim=1)
        best_first, by_score = values[tied].gather(1, by_id).sort(dim=1, descending=True, stable=True)
        values[tied], items[tied] = best_first, ids.gather(1, by_score)
    if values.shape[1] > width and (contested := equal[:, width - 1]).any():  # some of the equal ones were left out
        best_first, order = scores[contested].sort(dim=1, descending=True, stable=True)
        values[contested], items[contested] = best_first[:, : width + 1], order[:, : width + 1]
    return values[:, :width], items[:, :width]


def _topk(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what `scores.topk(count)` does, of equal scores perhaps others, in less time where there are many columns.

    Columns are looked at in groups. A group whose best score is not among the `count` best of all groups holds nothing that is
    greater than the last of the `count` best scores, so only the columns of the best groups are sorted.
    """
    # the size of a group balances the number of groups against the number of columns in the best of them
    width = scores.shape[1]
    size = math.isqrt(width // count)
    if size < 2:
        return scores.topk(count, dim=1)

    # column c is in group c % groups, in row c // groups of `grouped`; the last few columns are in no group
    groups = width // size
    inside = size * groups
    grouped = scores[:, :inside].reshape(-1, size, groups)
    best = grouped.amax(1).topk(count, dim=1, sorted=False).indices

    # sort what is in the best groups, row by row, and the columns in no group
    chosen = grouped.gather(2, best.unsqueeze(1).expand(-1, size, -1)).flatten(1)
    values, places = torch.cat([chosen, scores[:, inside:]], dim=1).topk(count, dim=1)

    # from places among those back to columns
    row = places.div(count, rounding_mode="floor")
    columns = row * groups + best.gather(1, places - row * count)
    return values, torch.where(row < size, columns, places - size * count + inside)
