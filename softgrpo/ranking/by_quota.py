"""Merge method `quota` (prefix quota, "snake"): recallers take turns, as often as their weights say.

At step t the recaller with the largest `w_m t - taken_m` (weights scaled to sum 1) gives its next unused item. Items that are
used already are skipped without charge; a recaller whose list has ended passes its turn; ties between recallers go to the next
item with the best rank, then the lower item id, then pool order.

Legend: B windows, G weight samples per window, M recallers, D depth, C union size, T targets, K cut-off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softgrpo.ranking.aligned import ABSENT, Aligned, at_places, best_ranks, leave_out


def order(aligned: Aligned, weights: Tensor, k: int) -> Tensor:
    """Returns the places of the first k items of each merged list, (B, G, k), -1 when all lists have ended; weights (B, G, M)."""
    batch, samples, _ = weights.shape
    size = aligned.items.shape[1]
    lists = aligned.lists[:, None].expand(-1, samples, -1, -1)  # (B, G, M, D+1)

    # ties between recallers: the smaller of these numbers wins, which is the better rank and then the lower item id
    places = torch.arange(size, dtype=torch.int32, device=weights.device)
    never = torch.iinfo(torch.int32).max
    ties = torch.nn.functional.pad(best_ranks(aligned, weights) * size + places, (0, 1), value=never)
    ties = ties.expand(-1, samples, -1)  # (B, G, C+1)

    # place C stands for "the list has ended"; it is never marked as used, so pointers stop there
    used = torch.zeros(batch, samples, size + 1, dtype=torch.bool, device=weights.device)
    quota = weights.double() / weights.double().sum(-1, keepdim=True)
    taken = torch.zeros_like(quota)
    one = torch.ones_like(quota[..., :1])
    pointer = ((quota <= 0) * aligned.depth)[..., None]  # (B, G, M, 1); a list without weight is at its end

    steps = []
    for step in range(1, k + 1):
        # every recaller's pointer moves on to its next unused item
        upcoming = lists.gather(3, pointer)[..., 0]  # (B, G, M)
        while (skip := used.gather(2, upcoming)).any():
            pointer += skip[..., None]
            upcoming = lists.gather(3, pointer)[..., 0]

        # the recaller that is owed most has the turn
        due = (quota * step - taken).masked_fill(upcoming == size, -torch.inf)
        first = due == due.amax(-1, keepdim=True)
        chosen = ties.gather(2, upcoming).masked_fill(~first, never).argmin(-1, keepdim=True)  # (B, G, 1)

        # its item is used from now on, and the turn is charged to it
        place = upcoming.gather(2, chosen)
        used.scatter_(2, place, place < size)
        taken.scatter_add_(2, chosen, one)
        steps.append(place)
    merged = torch.cat(steps, -1)
    return merged.masked_fill(merged == size, -1)


def ranks(aligned: Aligned, positions: Tensor, weights: Tensor, max_rank: int) -> Tensor:
    """Returns the ranks of targets, (B, G, T), see `softgrpo.ranking.fusion.target_ranks`: the steps that took them."""
    targets = positions[:, None, :]  # (B, 1, T)
    merged = order(aligned, weights, max_rank)  # (B, G, K)
    steps = torch.arange(1, max_rank + 1, dtype=torch.float32, device=merged.device)
    # (B, G, T, K), at most one step each; padding (-1) must not equal the end of a list (-1)
    taken = merged[:, :, None] == targets.masked_fill(targets < 0, -2)[..., None]
    step = (taken.float() @ steps).long()
    return step.masked_fill(step == 0, ABSENT)


def contenders(aligned: Aligned, k: int) -> Aligned:
    """Leaves out what no list has among its first k, and cuts the lists there: k turns use at most k items."""
    depth = min(aligned.depth, k)
    cut = Aligned(
        aligned.items,
        aligned.ranks.clamp(max=depth),
        aligned.values,
        torch.cat([aligned.lists[..., :depth], aligned.lists[..., -1:]], -1),
    )
    return leave_out(cut, (cut.ranks < depth).any(1))


def shares(aligned: Aligned, places: Tensor, weights: Tensor) -> Tensor:
    """Returns whose turn each item of merged lists was, (B, K, M) float64 of 0 and 1; places (B, K), weights (B, M).

    An item can be a recaller's next one only if all that the recaller ranks before it are used; among those recallers it was the
    turn of the one with the largest quota left, the earlier of equal ones.
    """
    list_ranks = at_places(aligned.ranks, places)  # (B, K, M), `depth` where the item is missing
    steps = torch.arange(list_ranks.shape[1])

    # how many items that recaller m ranks before item k were taken before step k: all of them, where k is its next one
    ahead = list_ranks[:, None] < list_ranks[:, :, None]  # (B, K, K', M)
    earlier = (steps[None, :] < steps[:, None])[None, ..., None]
    used = (ahead & earlier).sum(2)  # (B, K, M)
    upcoming = (used == list_ranks) & (list_ranks < aligned.depth) & (weights > 0)[:, None]

    # replay the turns: whoever is owed most among those recallers had the turn, and is charged for it
    quota = weights.double() / weights.double().sum(-1, keepdim=True)
    taken = torch.zeros_like(quota)
    turns = torch.zeros(list_ranks.shape, dtype=torch.float64)
    for step in range(list_ranks.shape[1]):
        due = (quota * (step + 1) - taken).masked_fill(~upcoming[:, step], -torch.inf)
        turn = torch.nn.functional.one_hot(due.argmax(-1), due.shape[-1]).double()
        turns[:, step] = turn
        taken += turn
    return turns
