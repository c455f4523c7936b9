"""Merge methods `score` and `rrf`: the sum over recallers of weight times value, 0 where the item is missing.

Order: by that sum, then by the best rank in a list with weight above 0, then by item id. Both the order and the rank of one item
are read from one integer per item that packs the three (`_sort_keys`): comparing integers is exact, independent of batch shape,
and needs no sort to find a rank.

Legend: B windows, G weight samples per window, M recallers, D depth, C union size, T targets, K cut-off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softgrpo.ranking.aligned import ABSENT, Aligned, at_places, best_ranks, leave_out, pieces

_OUTSIDE = 2**62 + 2**32
"""Taken off the key of an item outside the merged list: its fused value is 0, so its key ends below those of all others."""
_PAIRS = 2**22  # pairs of items compared at a time: 4 MiB


def order(aligned: Aligned, weights: Tensor, k: int) -> Tensor:
    """Returns the places of the first k items of each merged list, (B, G, k), -1 behind its end; weights (B, G, M)."""
    keys, places = _sort_keys(aligned, weights).topk(min(k, aligned.items.shape[1]), dim=-1)
    places = places.masked_fill(keys < -_OUTSIDE, -1)
    return torch.nn.functional.pad(places, (0, k - places.shape[-1]), value=-1)


def ranks(aligned: Aligned, positions: Tensor, weights: Tensor, max_rank: int) -> Tensor:
    """Returns the ranks of targets, (B, G, T), see `softgrpo.ranking.fusion.target_ranks`; nothing is sorted."""
    targets = positions[:, None, :]  # (B, 1, T)
    keys = _sort_keys(aligned, weights)
    own = keys.gather(2, targets.clamp(min=0).expand(-1, weights.shape[1], -1))  # (B, G, T)
    counted = 1 + _count_larger(keys, own)
    return counted.masked_fill((targets < 0) | (own < -_OUTSIDE) | (counted > max_rank), ABSENT)


def contenders(aligned: Aligned, k: int) -> Aligned:
    """Leaves out each item that at least k others beat in every list: it stays behind them under all weights.

    "Beat" is: in each list that holds the item a better rank, and in every list at least its value (0 where the other is missing).
    Sums of products keep that order also after rounding, and ties go to the better rank.
    """
    # to leave out some beaten items before comparing all pairs changes nothing, as "beat" is transitive, and saves most of the time
    kept = aligned.items >= 0
    for part in pieces(len(kept), aligned.num_recallers * kept.shape[1]):
        kept[part] &= _beaten_in_their_only_list(aligned.select(part)) < k
    aligned = leave_out(aligned, kept)
    kept = aligned.items >= 0
    step = max(1, _PAIRS // kept.shape[1] ** 2)
    for start in range(0, len(kept), step):
        part = slice(start, start + step)
        kept[part] &= _times_beaten(aligned.select(part)) < k
    return leave_out(aligned, kept)


def shares(aligned: Aligned, places: Tensor, weights: Tensor) -> Tensor:
    """Returns weight times value of each recaller (B, K, M) float64 at places (B, K) of merged lists; weights (B, M)."""
    return at_places(aligned.values, places).double() * weights.double()[:, None]


def fused_scores(aligned: Aligned, weights: Tensor) -> Tensor:
    """Returns the sum of weight times value, (B, G, C) float32; product and sum apart: no batch shape changes rounding."""
    weights = weights.to(aligned.values.dtype)
    fused = aligned.values[:, None, 0] * weights[..., 0, None]
    for m in range(1, aligned.num_recallers):
        fused += aligned.values[:, None, m] * weights[..., m, None]
    return fused


def _sort_keys(aligned: Aligned, weights: Tensor) -> Tensor:
    """One int64 per item, (B, G, C), larger = earlier: fused value (32 bits), then best rank, then item id (31 bits).

    That is more than -2**62 - 2**32 for the items of the merged list, and less for all others.
    """
    size = aligned.items.shape[1]
    best = best_ranks(aligned, weights)
    bits = fused_scores(aligned, weights).add_(0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    flip = bits.bitwise_right_shift(31).bitwise_and_(0x7FFFFFFF)  # of negative floats all bits but the sign
    ordered = flip.bitwise_xor_(bits)  # the order of the floats, as integers
    tie = best * size + torch.arange(size, dtype=torch.int32, device=best.device)
    return ordered.long().bitwise_left_shift_(31).sub_(tie + (best >= aligned.depth) * _OUTSIDE)


def _count_larger(keys: Tensor, own: Tensor) -> Tensor:
    """How many of keys (B, G, C) are larger than each of own (B, G, T), (B, G, T) int64; one target at a time saves memory."""
    return torch.stack([(keys > own[..., t, None]).count_nonzero(-1) for t in range(own.shape[-1])], -1)


def _beaten_in_their_only_list(aligned: Aligned) -> Tensor:
    """Of each item that only one list holds: how many items before it there beat it, (B, C) int64; 0 of all other items.

    They are those before it whose values in the other lists are not negative.
    """
    size = aligned.items.shape[1]
    negative = (aligned.values < 0).int()
    clean = negative.sum(1, keepdim=True) == negative  # (B, M, C) nowhere negative but perhaps in list m itself
    in_order = torch.nn.functional.pad(clean, (0, 1)).gather(2, aligned.lists[..., :-1]).int()  # (B, M, D)
    before = in_order.cumsum(-1) - in_order
    counted = torch.zeros_like(aligned.ranks, dtype=torch.int64)  # (B, M, C)
    counted = torch.nn.functional.pad(counted, (0, 1)).scatter_(2, aligned.lists[..., :-1], before)[..., :size]
    alone = (aligned.ranks < aligned.depth).sum(1) == 1
    return counted.sum(1) * alone


def _times_beaten(aligned: Aligned) -> Tensor:
    """How many items beat each item, (B, C) int64."""
    size = aligned.items.shape[1]
    beats = torch.ones(len(aligned), size, size, dtype=torch.bool, device=aligned.items.device)  # (B, C, by)
    for m in range(aligned.num_recallers):
        ranks, values = aligned.ranks[:, m], aligned.values[:, m]
        beats &= ranks[:, None, :] <= ranks[:, :, None]  # equal only where both are missing, and of an item with itself
        beats &= values[:, None, :] >= values[:, :, None]
    return beats.count_nonzero(-1) - 1
