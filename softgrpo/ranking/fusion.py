"""Merging weighted candidate lists, batched over windows and weight samples.

Legend: B windows, G weight samples per window, M recallers, D depth, C union size, T targets, K cut-off.

Which items are in a merged list: those that at least one recaller with a weight above 0 retrieved. A recaller with weight
exactly 0 changes nothing at all, not even the order of ties; so a one-hot weight gives that recaller's own list, item for item.

Order of methods `score` and `rrf`: by the sum over recallers of weight times value (0 where the item is missing), then by the
best rank in a list with weight above 0, then by item id. Both the order and the rank of one item are read from one integer per
item that packs the three (`_sort_keys`): comparing integers is exact, independent of batch shape, and needs no sort to find a rank.

Order of method `quota` (prefix quota, "snake"): at step t the recaller with the largest `w_m t - taken_m` (weights scaled to sum
1) gives its next unused item. Items that are used already are skipped without charge; a recaller whose list has ended passes
its turn; ties between recallers go to the next item with the best rank, then the lower item id, then pool order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.errors import CandidateError, TrainingError
from softgrpo.ranking.normalisation import list_values

ABSENT = 2**31 - 1
"""Rank of a target that is not in the merged list."""
_OUTSIDE = 2**62 + 2**32
"""Taken off the key of an item outside the merged list: its fused value is 0, so its key ends below those of all others."""


@dataclass(frozen=True)
class Aligned:
    """The lists of each window over the union of their items.

    Attributes:
        items: (B, C) int64 item ids, ascending, -1 behind the end.
        ranks: (B, M, C) int32 0-based rank of each item in each list, D where it is missing.
        values: (B, M, C) float32 what one unit of weight gives to the item, 0 where it is missing.
        lists: (B, M, D+1) int64 place 0..C-1 of each list's items in `items`; C behind the end, which the last column always is.
    """

    items: Tensor
    ranks: Tensor
    values: Tensor
    lists: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @property
    def num_recallers(self) -> int:
        """M."""
        return self.lists.shape[1]

    @property
    def depth(self) -> int:
        """D."""
        return self.lists.shape[2] - 1

    def select(self, index: Tensor | slice) -> Aligned:
        """Returns the windows of an index (B',) or slice, in its order."""
        return Aligned(self.items[index], self.ranks[index], self.values[index], self.lists[index])

    def to(self, device: torch.device | str) -> Aligned:
        """Returns the same on a device."""
        return Aligned(*(tensor.to(device) for tensor in (self.items, self.ranks, self.values, self.lists)))


def align(items: Tensor, scores: Tensor, fusion: FusionConfig, platt: Tensor | None = None) -> Aligned:
    """Brings the lists of each window over the union of their items.

    Args:
        items: (B, M, D) item ids, best first, without repetition in a list, -1 behind the end of a shorter list.
        scores: (B, M, D) raw scores; anything behind the end of a list.
        fusion: Decides the values.
        platt: (M, 2) parameters of the normalisation `platt`, from `softgrpo.ranking.normalisation.fit_platt`.

    Raises:
        CandidateError: A list has a gap, repeats an item, or holds an item without a finite score.
    """
    items = items.long()
    valid = items >= 0
    _check_lists(items, scores, valid)
    batch, recallers, depth = items.shape
    union, place = _union(items.flatten(1))
    lists = place.view(batch, recallers, depth)  # (B, M, D), C behind the end
    size = union.shape[1]
    ranks = torch.full((batch, recallers, size + 1), depth, dtype=torch.int32, device=items.device)
    own = torch.arange(depth, dtype=torch.int32, device=items.device).expand(batch, recallers, depth)
    ranks.scatter_(2, lists, own)
    values = torch.zeros(batch, recallers, size + 1, device=items.device)
    values.scatter_(2, lists, list_values(scores, valid, fusion, platt))
    behind = torch.full_like(lists[..., :1], size)
    return Aligned(
        union, ranks[..., :-1].contiguous(), values[..., :-1].contiguous(), torch.cat([lists, behind], -1).contiguous()
    )


def _check_lists(items: Tensor, scores: Tensor, valid: Tensor) -> None:
    ordered = items.sort(-1).values
    problems = {
        "a candidate list with a gap": (valid[..., 1:] & ~valid[..., :-1]).any(),
        "a candidate list that repeats an item": (
            (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        ).any(),
        "a candidate item without a finite score": (valid & ~scores.isfinite()).any(),
    }
    for received, found in problems.items():
        if found:
            raise CandidateError(
                received,
                "a list holds distinct items, each with a score, and -1 only behind its end",
                "rebuild the candidates",
            )


def _union(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct items per row (B, C), ascending, -1 behind the end; and the place of each entry of `flat`, C for -1."""
    ordered, order = flat.sort(dim=1)
    fresh = ordered >= 0
    fresh[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    place = fresh.cumsum(1) - 1
    size = max(1, int(fresh.sum(1).max()))
    place = place.masked_fill(ordered < 0, size)
    union = torch.full((len(flat), size + 1), -1, dtype=torch.int64, device=flat.device).scatter_(1, place, ordered)
    return union[:, :-1].contiguous(), torch.empty_like(place).scatter_(1, order, place)


def target_positions(aligned: Aligned, targets: Tensor) -> Tensor:
    """Finds the targets among the candidates.

    Args:
        aligned: Of B windows.
        targets: (B, T) item ids, -1 padded.

    Returns:
        (B, T) int64 place in `aligned.items`; -1 for padding and for targets that no list holds.
    """
    keys = aligned.items.masked_fill(aligned.items < 0, torch.iinfo(torch.int64).max)
    places = torch.searchsorted(keys, targets.long().contiguous()).clamp(max=keys.shape[1] - 1)
    return places.masked_fill(keys.gather(1, places) != targets, -1)


def check_weights(weights: Tensor, aligned: Aligned) -> None:
    """Checks weights (B, G, M): finite, not negative, with a positive sum.

    Raises:
        TrainingError: They are not, or have another shape.
    """
    if weights.ndim != 3 or weights.shape[0] != len(aligned) or weights.shape[2] != aligned.num_recallers:
        raise TrainingError(
            f"weights of shape {tuple(weights.shape)}",
            f"merging {len(aligned)} windows of {aligned.num_recallers} recallers needs weights of shape "
            f"({len(aligned)}, G, {aligned.num_recallers})",
            "pass one weight per window, sample and recaller",
        )
    total = weights.sum(-1)
    wrong = (weights < 0).any(-1) | ~total.isfinite() | (total == 0)
    if wrong.any():
        bad = int(wrong.sum())
        raise TrainingError(
            f"{bad} of {total.numel()} weight vectors with NaN, infinite, negative or only zero entries",
            "weights are finite, at least 0, and not all 0",
            "look for a diverged policy: lower the learning rate, or switch bf16 off",
        )


def _best_ranks(aligned: Aligned, weights: Tensor) -> Tensor:
    """Best rank over the lists with weight above 0, (B, G, C) int32; at least D where no such list holds the item.

    (B, 1, C) where the samples of each window have the same such lists, as those of one top-p support do: G times less work.
    """
    silent = weights <= 0  # (B, G, M)
    if bool((silent == silent[:, :1]).all()):
        silent = silent[:, :1]
    mute = silent.int() * aligned.depth
    best = aligned.ranks[:, None, 0] + mute[..., 0, None]
    for m in range(1, aligned.num_recallers):
        best = torch.minimum(best, aligned.ranks[:, None, m] + mute[..., m, None])
    return best


def _fused(aligned: Aligned, weights: Tensor) -> Tensor:
    """Sum of weight times value, (B, G, C) float32; product and sum apart, so that no batch shape changes the rounding."""
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
    best = _best_ranks(aligned, weights)
    bits = _fused(aligned, weights).add_(0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    flip = bits.bitwise_right_shift(31).bitwise_and_(0x7FFFFFFF)  # of negative floats all bits but the sign
    ordered = flip.bitwise_xor_(bits)  # the order of the floats, as integers
    tie = best * size + torch.arange(size, dtype=torch.int32, device=best.device)
    return ordered.long().bitwise_left_shift_(31).sub_(tie + (best >= aligned.depth) * _OUTSIDE)


def target_ranks(aligned: Aligned, positions: Tensor, weights: Tensor, fusion: FusionConfig, max_rank: int) -> Tensor:
    """Ranks the targets in the merged lists.

    Args:
        aligned: Of B windows, made with the same `fusion`.
        positions: (B, T) from `target_positions`.
        weights: (B, G, M), see `check_weights`.
        fusion: How lists are merged.
        max_rank: Ranks above it are not needed.

    Returns:
        (B, G, T) int64 rank from 1 to `max_rank`; `ABSENT` for every other target and for padding.

    Raises:
        TrainingError: The weights break a rule of `check_weights`.
    """
    check_weights(weights, aligned)
    wanted = positions[:, None, :]  # (B, 1, T)
    if fusion.method == "quota":
        taken = _quota_order(aligned, weights, max_rank)  # (B, G, K)
        steps = torch.arange(1, max_rank + 1, dtype=torch.float32, device=taken.device)
        found = (
            taken[:, :, None] == wanted.masked_fill(wanted < 0, -2)[..., None]
        )  # (B, G, T, K), at most one step each
        ranks = (found.float() @ steps).long()
        return ranks.masked_fill(ranks == 0, ABSENT)
    keys = _sort_keys(aligned, weights)
    own = keys.gather(2, wanted.clamp(min=0).expand(-1, weights.shape[1], -1))  # (B, G, T)
    ranks = 1 + _count_larger(keys, own)
    return ranks.masked_fill((wanted < 0) | (own < -_OUTSIDE) | (ranks > max_rank), ABSENT)


def _count_larger(keys: Tensor, own: Tensor) -> Tensor:
    """How many of keys (B, G, C) are larger than each of own (B, G, T), (B, G, T) int64; one target at a time saves memory."""
    return torch.stack([(keys > own[..., t, None]).count_nonzero(-1) for t in range(own.shape[-1])], -1)


def merged_lists(aligned: Aligned, weights: Tensor, fusion: FusionConfig, k: int) -> Tensor:
    """Merges the lists, best item first.

    Args:
        aligned: Of B windows, made with the same `fusion`.
        weights: (B, G, M), see `check_weights`.
        fusion: How lists are merged.
        k: Length of the merged lists.

    Returns:
        (B, G, k) int64 item ids, -1 behind the end of a shorter list.

    Raises:
        TrainingError: The weights break a rule of `check_weights`.
    """
    check_weights(weights, aligned)
    if fusion.method == "quota":
        places = _quota_order(aligned, weights, k)
    else:
        keys, places = _sort_keys(aligned, weights).topk(min(k, aligned.items.shape[1]), dim=-1)
        places = places.masked_fill(keys < -_OUTSIDE, -1)
        places = torch.nn.functional.pad(places, (0, k - places.shape[-1]), value=-1)
    items = aligned.items[:, None].expand(-1, weights.shape[1], -1).gather(2, places.clamp(min=0))
    return items.masked_fill(places < 0, -1)


def _quota_order(aligned: Aligned, weights: Tensor, steps: int) -> Tensor:
    """Places (B, G, steps) in the order taken, -1 when all lists have ended."""
    batch, samples, _ = weights.shape
    size = aligned.items.shape[1]
    lists = aligned.lists[:, None].expand(-1, samples, -1, -1)  # (B, G, M, D+1)
    places = torch.arange(size, dtype=torch.int32, device=weights.device)
    never = torch.iinfo(torch.int32).max
    ties = torch.nn.functional.pad(_best_ranks(aligned, weights) * size + places, (0, 1), value=never)
    ties = ties.expand(-1, samples, -1)  # (B, G, C+1)
    used = torch.zeros(batch, samples, size + 1, dtype=torch.bool, device=weights.device)  # the last stays unused
    quota = weights.double() / weights.double().sum(-1, keepdim=True)
    taken = torch.zeros_like(quota)
    one = torch.ones_like(quota[..., :1])
    pointer = ((quota <= 0) * aligned.depth)[..., None]  # (B, G, M, 1); a list without weight is at its end
    order = []
    for step in range(1, steps + 1):
        upcoming = lists.gather(3, pointer)[..., 0]  # (B, G, M)
        while (skip := used.gather(2, upcoming)).any():
            pointer += skip[..., None]
            upcoming = lists.gather(3, pointer)[..., 0]
        due = (quota * step - taken).masked_fill(upcoming == size, -torch.inf)
        first = due == due.amax(-1, keepdim=True)
        chosen = ties.gather(2, upcoming).masked_fill(~first, never).argmin(-1, keepdim=True)  # (B, G, 1)
        place = upcoming.gather(2, chosen)
        used.scatter_(2, place, place < size)
        taken.scatter_add_(2, chosen, one)
        order.append(place)
    places = torch.cat(order, -1)
    return places.masked_fill(places == size, -1)
