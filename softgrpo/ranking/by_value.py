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
_WORD = 64
"""Items whose bits are in one int64."""


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
    Sums of products keep that order also after rounding, and ties go to the better rank. Lists whose values rise somewhere keep
    all their items.
    """
    kept = aligned.items >= 0
    rows = aligned.num_recallers * (aligned.depth + 2)
    for part in pieces(len(kept), rows * -(-kept.shape[1] // _WORD)):
        piece = aligned.select(part)
        kept[part] &= (_times_beaten(piece) < k) | _rises(piece)[:, None]
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


def _rises(aligned: Aligned) -> Tensor:
    """Returns the windows (B,) bool of which a list has a larger value after a smaller one."""
    places = aligned.lists[..., :-1]
    inside = places < aligned.items.shape[1]
    values = aligned.values.gather(2, places.masked_fill(~inside, 0))
    return ((values[..., 1:] > values[..., :-1]) & inside[..., 1:]).flatten(1).any(1)


def _times_beaten(aligned: Aligned) -> Tensor:
    """How many items beat each item, (B, C) int64, where values fall along each list.

    A set of items is a row of bits. Of each list there is a row for each rank, with all items before it. What beats an item is what
    is in its rows of all lists; where a list lacks it, in the row of those that are not worth less than nothing there.
    """
    batch, recallers, size = aligned.ranks.shape
    depth, words = aligned.depth, -(-size // _WORD)
    place = torch.arange(size, device=aligned.items.device)
    bit = torch.ones_like(place).bitwise_left_shift(place % _WORD)
    ranks = aligned.ranks.long()

    # one bit in the row behind each rank, then sums along the ranks: no bit comes twice, so nothing is carried
    before = ranks.new_zeros(batch, recallers, (depth + 2) * words)
    before.scatter_(2, (ranks + 1) * words + place // _WORD, bit.expand_as(ranks))
    before = before.view(batch, recallers, depth + 2, words)[:, :, :-1].cumsum(2)
    worth = ((aligned.items >= 0)[:, None] & (aligned.values >= 0)) * bit
    worth = torch.nn.functional.pad(worth, (0, words * _WORD - size))
    before[:, :, depth] = worth.view(batch, recallers, words, _WORD).sum(-1)

    rows, first = before.flatten(0, 2), torch.arange(batch, device=place.device)[:, None] * (recallers * (depth + 1))
    beats = rows.index_select(0, (ranks[:, 0] + first).flatten())  # (B * C, words)
    for m in range(1, recallers):
        beats &= rows.index_select(0, (ranks[:, m] + first + m * (depth + 1)).flatten())
    return _count_bits(beats).sum(-1).view(batch, size)


def _count_bits(numbers: Tensor) -> Tensor:
    """Returns how many bits of each int64 are 1: sums of neighbouring groups of 2, 4 and 8 bits, then of all groups at once.

    The masks drop what the shift brings in at the sign.
    """
    pairs = numbers - (numbers.bitwise_right_shift(1) & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333) + (pairs.bitwise_right_shift(2) & 0x3333333333333333)
    eights = (fours + fours.bitwise_right_shift(4)) & 0x0F0F0F0F0F0F0F0F
    return (eights * 0x0101010101010101).bitwise_right_shift(56)
