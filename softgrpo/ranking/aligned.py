"""Candidate lists over the union of their items: what every merge method works on. See `softgrpo.ranking.fusion` for merging.

Legend: B windows, G weight samples per window, M recallers, D depth, C union size, T targets, K cut-off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from softgrpo.common.scratch import scratch
from softgrpo.errors import CandidateError, TrainingError

ABSENT = 2**31 - 1
"""Rank of a target that is not in the merged list."""
_ENTRIES = 2**19
"""(window, recaller, item) entries that are aligned, or left out, at a time: what that takes does not grow with the windows."""

_ROOM = 16
"""The size of the unions in an `AlignedBuffer` is a multiple of this."""


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


def pieces(batch: int, entries: int) -> Iterator[slice]:
    """Gives slices that cover a batch of windows with so many entries each, a few windows at a time.

    What is made of a piece goes into a tensor that was there before: small results that are kept between large blocks that are
    freed would make the heap grow by a block with every piece.
    """
    step = max(1, _ENTRIES // max(1, entries))
    for start in range(0, batch, step):
        yield slice(start, start + step)


def over_union(items: Tensor, values: Tensor) -> Aligned:
    """Brings the lists of each window over the union of their items.

    Args:
        items: (B, M, D) int64 item ids that `check_lists` accepts.
        values: (B, M, D) float32 what one unit of weight gives to each entry, 0 behind the end of a list.
    """
    batch, recallers, depth = items.shape
    union = items.new_full((batch, recallers * depth), -1)
    lists = items.new_empty(batch, recallers, depth + 1)
    size = 1
    for part in pieces(batch, recallers * depth):
        found, place = _union(items[part].flatten(1))
        union[part, : found.shape[1]] = found
        # behind its end, and in the last column, a list has the place behind the largest union: not known before the last piece
        place = place.masked_fill(place == found.shape[1], ABSENT).view(-1, recallers, depth)
        lists[part] = torch.nn.functional.pad(place, (0, 1), value=ABSENT)
        size = max(size, found.shape[1])
    lists.clamp_(max=size)
    ranks = torch.empty(batch, recallers, size, dtype=torch.int32, device=items.device)
    union_values = torch.empty(batch, recallers, size, device=items.device)
    own = torch.arange(depth, dtype=torch.int32, device=items.device)
    for part in pieces(batch, recallers * size):
        places = lists[part, :, :-1]
        # one column more than the union takes what is behind the end of a list, and is cut off again
        rows = (len(places), recallers, size + 1)
        ranks[part] = ranks.new_full(rows, depth).scatter_(2, places, own.expand_as(places))[..., :-1]
        union_values[part] = union_values.new_zeros(rows).scatter_(2, places, values[part])[..., :-1]
    return Aligned(union[:, :size].contiguous(), ranks, union_values, lists)


def check_lists(items: Tensor, scores: Tensor, valid: Tensor) -> None:
    """Checks candidate lists (B, M, D): no gap, no item twice, a finite score for each item.

    Raises:
        CandidateError: A list breaks a rule.
    """
    ordered = items.sort(-1).values
    problems = {
        "a candidate list with a gap": (valid[..., 1:] & ~valid[..., :-1]).any(),
        "a candidate list that repeats an item": (
            (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        ).any(),
        "a candidate item without a finite score": (valid & ~scores.isfinite()).any(),
    }
    for received, occurs in problems.items():
        if occurs:
            raise CandidateError(
                received,
                "a list holds distinct items, each with a score, and -1 only behind its end",
                "rebuild the candidates",
                code="CANDIDATE-001",
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
    found = torch.empty_like(targets, dtype=torch.int64)
    for part in pieces(len(targets), aligned.items.shape[1]):
        items, asked = aligned.items[part], targets[part].long().contiguous()
        keys = items.masked_fill(items < 0, torch.iinfo(torch.int64).max)
        places = torch.searchsorted(keys, asked).clamp(max=keys.shape[1] - 1)
        found[part] = places.masked_fill(keys.gather(1, places) != asked, -1)
    return found


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
            code="TRAINING-016",
        )
    total = weights.sum(-1)
    wrong = (weights < 0).any(-1) | ~total.isfinite() | (total == 0)
    if wrong.any():
        bad = int(wrong.sum())
        raise TrainingError(
            f"{bad} of {total.numel()} weight vectors with NaN, infinite, negative or only zero entries",
            "weights are finite, at least 0, and not all 0",
            "look for a diverged policy: lower the learning rate, or switch bf16 off",
            code="TRAINING-017",
        )


def best_ranks(aligned: Aligned, weights: Tensor) -> Tensor:
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


def leave_out(aligned: Aligned, kept: Tensor) -> Aligned:
    """Leaves out the items that are not `kept` (B, C); a list closes up over those that it loses."""
    size = max(1, int(kept.sum(1).max())) if len(kept) else 1
    left = Aligned(
        aligned.items.new_empty(len(kept), size),
        aligned.ranks.new_empty(len(kept), aligned.num_recallers, size),
        aligned.values.new_empty(len(kept), aligned.num_recallers, size),
        torch.empty_like(aligned.lists),
    )
    for part in pieces(len(kept), aligned.num_recallers * kept.shape[1]):
        piece = _left_out(aligned.select(part), kept[part], size)
        for whole, filled in zip(vars(left).values(), vars(piece).values(), strict=True):
            whole[part] = filled
    return left


def _left_out(aligned: Aligned, kept: Tensor, size: int) -> Aligned:
    """Returns lists without the items that are not `kept` (B, C), over `size` places."""
    # each kept item moves to its number among the kept ones; all others move to one last place, which is cut off at the end
    place = (kept.cumsum(1) - 1).masked_fill(~kept, size)  # (B, C) new place, `size` of those left out
    items = torch.full_like(aligned.items[:, :1], -1).repeat(1, size + 1).scatter_(1, place, aligned.items)

    # ranks and values move with their items
    recallers = aligned.num_recallers
    wide = place[:, None].expand(-1, recallers, -1)
    rows = (len(kept), recallers, size + 1)
    ranks = aligned.ranks.new_full(rows, aligned.depth).scatter_(2, wide, aligned.ranks)
    values = aligned.values.new_zeros(rows).scatter_(2, wide, aligned.values)

    # the lists hold places: translate them, then sort the entries that were left out behind the others, whose order stays
    behind = torch.nn.functional.pad(place, (0, 1), value=size)  # of place C, behind the end, too
    moved = behind[:, None].expand(-1, recallers, -1).gather(2, aligned.lists)
    order = (moved == size).byte().argsort(dim=-1, stable=True)
    return Aligned(items[:, :-1], ranks[..., :-1], values[..., :-1], moved.gather(2, order))


class AlignedBuffer:
    """Room for windows that come some at a time.

    It is taken at once, and anew, for all windows, where a union is larger than those before: small results that are kept between
    large blocks that are freed would make the heap grow with every part.

    Args:
        windows: How many will come.
    """

    def __init__(self, windows: int) -> None:
        self._windows, self._filled = windows, 0
        self._room: Aligned | None = None

    def add(self, part: Aligned) -> None:
        """Takes the next windows; all parts have the same recallers and depth."""
        size = part.items.shape[1]
        if self._room is None or size > self._room.items.shape[1]:
            self._room = self._larger(part, -(-size // _ROOM) * _ROOM)
        rows = slice(self._filled, self._filled + len(part))
        self._room.items[rows, :size] = part.items
        self._room.ranks[rows, :, :size] = part.ranks
        self._room.values[rows, :, :size] = part.values
        self._room.lists[rows] = part.lists.masked_fill(part.lists == size, ABSENT)
        self._filled = rows.stop

    def whole(self) -> Aligned:
        """Returns all windows that came, over unions of equal size; the buffer is used up.

        Raises:
            ValueError: None came, or fewer than were announced.
        """
        if self._room is None or self._filled != self._windows:
            raise ValueError(f"{self._filled} of {self._windows} windows came")
        room, self._room = self._room, None
        room.lists.clamp_(max=room.items.shape[1])
        return room

    def _larger(self, part: Aligned, size: int) -> Aligned:
        """Returns room for unions of a size, with the windows that have come."""
        count, (_, recallers, depth) = self._windows, part.lists.shape
        room = Aligned(
            _room(part.items, count, size).fill_(-1),
            _room(part.ranks, count, recallers, size).fill_(part.depth),
            _room(part.values, count, recallers, size),
            _room(part.lists, count, recallers, depth) if self._room is None else self._room.lists,
        )
        if self._room is not None:
            for whole, filled in zip(list(vars(room).values())[:3], list(vars(self._room).values())[:3], strict=True):
                whole[..., : filled.shape[-1]] = filled
        return room


def _room(like: Tensor, *shape: int) -> Tensor:
    """Returns zeros of a shape, of the type and on the device of another tensor; large ones of the CPU lie in a file."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(scratch(shape, like.new_empty(0).numpy().dtype))


def at_places(entries: Tensor, places: Tensor) -> Tensor:
    """Returns the entries (B, M, C) of each recaller at some places (B, K) of the union, (B, K, M)."""
    return entries.gather(2, places[:, None].expand(-1, entries.shape[1], -1)).transpose(1, 2)
