"""What each recaller gave to each item of a merged list. Legend: B windows, M recallers, D depth, K length."""

from __future__ import annotations

import torch
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.ranking.fusion import Aligned, target_positions


def contributions(aligned: Aligned, merged: Tensor, weights: Tensor, fusion: FusionConfig) -> Tensor:
    """Returns what each recaller gave to each item of merged lists.

    Args:
        aligned: The lists of B windows.
        merged: (B, K) what `softgrpo.ranking.fusion.merged_lists` made of them.
        weights: (B, M) the weights it was made with.
        fusion: The way it was made.

    Returns:
        (B, K, M) float64: weight times value, 0 where the recaller does not have the item; for the method quota 1 for the recaller
        whose turn it was. 0 behind the end of a list.
    """
    places = target_positions(aligned, merged)
    inside = (places >= 0)[..., None]  # (B, K, 1)
    at = places.clamp(min=0)[:, None].expand(-1, aligned.num_recallers, -1)  # (B, M, K)
    if fusion.method == "quota":
        return _turns(aligned.ranks.gather(2, at).transpose(1, 2), weights, aligned.depth) * inside
    values = aligned.values.gather(2, at).transpose(1, 2)  # (B, K, M)
    return values.double() * weights.double()[:, None] * inside


def _turns(ranks: Tensor, weights: Tensor, depth: int) -> Tensor:
    """Returns whose turn each item of a list merged by quota was, (B, K, M) of 0 and 1.

    An item can be a recaller's next one only if all that the recaller ranks before it are used; among those recallers it was the
    turn of the one with the largest quota left, the earlier of equal ones.

    Args:
        ranks: (B, K, M) 0-based rank of each item in each list, `depth` where it is missing.
        weights: (B, M).
        depth: D.
    """
    steps = torch.arange(ranks.shape[1])
    before = (ranks[:, None] < ranks[:, :, None]) & (steps[None, :] < steps[:, None])[None, ..., None]  # (B, K, K', M)
    upcoming = (before.sum(2) == ranks) & (ranks < depth) & (weights > 0)[:, None]
    quota = weights.double() / weights.double().sum(-1, keepdim=True)
    taken = torch.zeros_like(quota)
    turns = torch.zeros(ranks.shape, dtype=torch.float64)
    for step in range(ranks.shape[1]):
        due = (quota * (step + 1) - taken).masked_fill(~upcoming[:, step], -torch.inf)
        mine = torch.nn.functional.one_hot(due.argmax(-1), due.shape[-1]).double()
        turns[:, step] = mine
        taken += mine
    return turns
