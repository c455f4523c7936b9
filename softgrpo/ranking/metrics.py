"""Ranking metrics with binary relevance, from the ranks of the targets. Standard definitions, one function each.

`ranks` (..., T) are 1-based ranks of a window's targets in one list; a target that is not in the list, and padding, has a rank
beyond every cut-off (`softgrpo.ranking.aligned.ABSENT`).
`num_targets` broadcasts against `ranks` without its last axis and counts all
targets of the window, also those that no list holds. All results are float64 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from softgrpo.errors import DataError


def ndcg(ranks: Tensor, num_targets: Tensor, k: int) -> Tensor:
    """Returns DCG@k / ideal DCG@k, where DCG@k is the sum of 1 / log2(rank + 1) over targets with rank <= k.

    The ideal list starts with all targets: the sum over ranks 1..min(k, |targets|). Järvelin and Kekäläinen (2002),
    "Cumulated gain-based evaluation of IR techniques", doi:10.1145/582415.582418.

    Raises:
        DataError: A window without a target.
    """
    check_targets(num_targets)
    discounts = 1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=ranks.device))  # rank 1..k
    by_rank = torch.nn.functional.pad(discounts, (0, 1))  # place k: beyond the cut-off, worth 0
    gain = by_rank[(ranks - 1).clamp(max=k)].sum(-1)
    return gain / discounts.cumsum(0)[num_targets.clamp(max=k) - 1]


def recall(ranks: Tensor, num_targets: Tensor, k: int) -> Tensor:
    """Returns the share of all targets that have a rank <= k.

    Raises:
        DataError: A window without a target.
    """
    check_targets(num_targets)
    return (ranks <= k).sum(-1).double() / num_targets


def hit(ranks: Tensor, k: int) -> Tensor:
    """Returns 1 where any target has a rank <= k, else 0."""
    return (ranks <= k).any(-1).double()


def mrr(ranks: Tensor, k: int) -> Tensor:
    """Returns 1 / rank of the first target, 0 where that rank is beyond k (Voorhees 1999, the TREC-8 QA track report)."""
    first = ranks.amin(-1)
    return torch.where(first <= k, 1 / first.double(), 0.0)


def all_metrics(ranks: Tensor, num_targets: Tensor, ks: Iterable[int], depth: int) -> dict[str, Tensor]:
    """Returns NDCG, Recall and Hit at each cut-off, and MRR over the first `depth` ranks.

    Returns:
        Keys `ndcg@k`, `recall@k`, `hit@k` for each k in ascending order, and `mrr`.
    """
    cuts = sorted(set(ks))
    values = {f"ndcg@{k}": ndcg(ranks, num_targets, k) for k in cuts}
    values |= {f"recall@{k}": recall(ranks, num_targets, k) for k in cuts}
    values |= {f"hit@{k}": hit(ranks, k) for k in cuts}
    return values | {"mrr": mrr(ranks, depth)}


def check_any_window(part: str, count: int, rule: str) -> None:
    """Checks that a part of the split has a window.

    Args:
        part: How people call the part: policy, validation or test.
        count: Its number of windows.
        rule: What they are needed for.

    Raises:
        DataError: There is none.
    """
    if count == 0:
        raise DataError(
            f"no {part} window", rule, "use more users, longer histories or other shares of the split", code="DATA-022"
        )


def check_targets(num_targets: Tensor) -> None:
    """Checks that every window has a target.

    Raises:
        DataError: A window without a target.
    """
    if (num_targets < 1).any():
        raise DataError(
            f"{int((num_targets < 1).sum())} windows without a target",
            "every window has at least one target",
            "cut the windows with softgrpo.data, which drops empty ones",
            code="DATA-024",
        )
