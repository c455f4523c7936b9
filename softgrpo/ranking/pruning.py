"""Which items can reach the first k of a merged list under any weights: merging those alone gives the same first k, in less time.

Methods `score` and `rrf`: an item that at least k others beat in every list stays behind them under all weights. "Beat" is: in each
list that holds the item a better rank, and in every list at least its value (0 where the other is missing). Sums of products
keep that order also after rounding, and ties go to the better rank.

Method `quota`: k turns use at most k items, so no list is read beyond its first k.

Legend: B windows, M recallers, D depth, C union size, K cut-off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.ranking.fusion import Aligned

_PAIRS = 2**22  # pairs of items compared at a time: 4 MiB


def contenders(aligned: Aligned, fusion: FusionConfig) -> Aligned:
    """Leaves out the items that no weights bring into the first `fusion.k`.

    Args:
        aligned: Of B windows, made with the same `fusion`.
        fusion: How lists are merged, and K.

    Returns:
        The same windows over fewer items; of depth min(D, K) for method `quota`. The lists' own order stays.
    """
    if fusion.method == "quota":
        depth = min(aligned.depth, fusion.k)
        aligned = Aligned(
            aligned.items,
            aligned.ranks.clamp(max=depth),
            aligned.values,
            torch.cat([aligned.lists[..., :depth], aligned.lists[..., -1:]], -1),
        )
        return _keep(aligned, (aligned.ranks < depth).any(1))
    step = max(1, _PAIRS // aligned.items.shape[1] ** 2)
    pieces = [aligned.select(slice(start, start + step)) for start in range(0, len(aligned), step)]
    beaten = torch.cat([_times_beaten(piece) for piece in pieces]) if pieces else torch.zeros_like(aligned.items)
    return _keep(aligned, (aligned.items >= 0) & (beaten < fusion.k))


def _times_beaten(aligned: Aligned) -> Tensor:
    """How many items beat each item, (B, C) int64."""
    size = aligned.items.shape[1]
    beats = torch.ones(len(aligned), size, size, dtype=torch.bool, device=aligned.items.device)  # (B, C, by)
    for m in range(aligned.num_recallers):
        ranks, values = aligned.ranks[:, m], aligned.values[:, m]
        beats &= ranks[:, None, :] <= ranks[:, :, None]  # equal only where both are missing, and of an item with itself
        beats &= values[:, None, :] >= values[:, :, None]
    return beats.count_nonzero(-1) - 1


def _keep(aligned: Aligned, kept: Tensor) -> Aligned:
    """Leaves out the items that are not `kept` (B, C); a list closes up over those that it loses."""
    size = max(1, int(kept.sum(1).max())) if len(kept) else 1
    place = (kept.cumsum(1) - 1).masked_fill(~kept, size)  # (B, C) new place, `size` of those left out
    items = torch.full_like(aligned.items[:, :1], -1).repeat(1, size + 1).scatter_(1, place, aligned.items)
    recallers = aligned.num_recallers
    wide = place[:, None].expand(-1, recallers, -1)
    rows = (len(kept), recallers, size + 1)
    ranks = aligned.ranks.new_full(rows, aligned.depth).scatter_(2, wide, aligned.ranks)
    values = aligned.values.new_zeros(rows).scatter_(2, wide, aligned.values)
    behind = torch.nn.functional.pad(place, (0, 1), value=size)  # of place C, behind the end, too
    moved = behind[:, None].expand(-1, recallers, -1).gather(2, aligned.lists)
    order = (moved == size).byte().argsort(dim=-1, stable=True)  # those left out go behind the end
    return Aligned(
        items[:, :-1].contiguous(), ranks[..., :-1].contiguous(), values[..., :-1].contiguous(), moved.gather(2, order)
    )
