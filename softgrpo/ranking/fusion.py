"""Merging weighted candidate lists, batched over windows and weight samples; `METHODS` has all that depends on the merge method.

A merge method is a `Merge`: a name in `softgrpo.config.MergeMethod` and a case in `merge_of`. A name without a case is an error
of the type checker, and of the import of this module.

Which items are in a merged list: those that at least one recaller with a weight above 0 retrieved. A recaller with weight
exactly 0 changes nothing at all, not even the order of ties; so a one-hot weight gives that recaller's own list, item for item.

Bounds on the recallers' shares are kept here and nowhere else: weights beyond them are merged as the nearest ones within
(`softgrpo.ranking.bounds`), whoever gives them.

Legend: B windows, G weight samples per window, M recallers, D depth, C union size, T targets, K cut-off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never, get_args

import torch
from torch import Tensor

from softgrpo.config import FusionConfig, MergeMethod
from softgrpo.ranking import by_quota, by_value
from softgrpo.ranking.aligned import Aligned, check_lists, check_weights, over_union, pieces, target_positions
from softgrpo.ranking.bounds import within_bounds
from softgrpo.ranking.normalisation import normalised_scores, reciprocal_ranks


@dataclass(frozen=True)
class Merge:
    """One merge method.

    Attributes:
        values: (scores, valid, fusion, parameters of platt or None) to what one unit of a recaller's weight gives to each entry,
            all (B, M, D) float64; see `softgrpo.ranking.normalisation`.
        order: (aligned, weights (B, G, M), k) to the places of the first k items, (B, G, k), -1 behind the end.
        ranks: (aligned, positions (B, T), weights (B, G, M), max_rank) to ranks (B, G, T), see `target_ranks`.
        contenders: (aligned, k) to the same windows without items that no weights bring into the first k.
        scores: (aligned, weights (B, G, M)) to what merged lists are ordered by, (B, G, C) float32; None: the method has no scores.
        shares: (aligned, places (B, K), weights (B, M)) to what each recaller gave to each place, (B, K, M) float64.
    """

    values: Callable[[Tensor, Tensor, FusionConfig, Tensor | None], Tensor]
    order: Callable[[Aligned, Tensor, int], Tensor]
    ranks: Callable[[Aligned, Tensor, Tensor, int], Tensor]
    contenders: Callable[[Aligned, int], Aligned]
    scores: Callable[[Aligned, Tensor], Tensor] | None
    shares: Callable[[Aligned, Tensor, Tensor], Tensor]


_BY_VALUE = (by_value.order, by_value.ranks, by_value.contenders, by_value.fused_scores, by_value.shares)


def merge_of(method: MergeMethod) -> Merge:
    """Returns what a merge method does."""
    match method:
        case "score":
            return Merge(normalised_scores, *_BY_VALUE)
        case "quota":  # reads no values, only ranks
            return Merge(reciprocal_ranks, by_quota.order, by_quota.ranks, by_quota.contenders, None, by_quota.shares)
        case "rrf":
            return Merge(reciprocal_ranks, *_BY_VALUE)
        case _:
            assert_never(method)


METHODS: dict[MergeMethod, Merge] = {method: merge_of(method) for method in get_args(MergeMethod)}
"""Every merge method by its name; made at import, so that a name without a method is found there."""


def list_values(scores: Tensor, valid: Tensor, fusion: FusionConfig, parameters: Tensor | None) -> Tensor:
    """Returns what one unit of a recaller's weight gives to each of its items.

    Args:
        scores: (B, M, D) raw scores, best first; anything behind the end of a list.
        valid: (B, M, D) bool.
        fusion: How lists are merged.
        parameters: (M, 2) from `softgrpo.ranking.normalisation.fit_platt`; None for all other normalisations.

    Returns:
        (B, M, D) float32, 0 behind the end of a list. Computed in float64: rounding to float32 can make neighbours equal
        but cannot swap them.

    Raises:
        CandidateError: Normalisation `platt` without its parameters.
    """
    exact = scores.double().masked_fill(~valid, 0.0)
    return METHODS[fusion.method].values(exact, valid, fusion, parameters).masked_fill(~valid, 0.0).float()


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
    values = torch.empty(items.shape, device=items.device)
    for part in pieces(len(items), items[0].numel() if len(items) else 0):
        check_lists(items[part], scores[part], valid[part])
        values[part] = list_values(scores[part], valid[part], fusion, platt)
    return over_union(items, values)


def fuse(items: Tensor, scores: Tensor, weights: Tensor, fusion: FusionConfig | None = None) -> Tensor:
    """Merges the candidate lists of each window with one weight per recaller.

    Args:
        items: (B, M, D) item ids of M recallers, best first, -1 behind the end of a shorter list.
        scores: (B, M, D) raw scores; anything behind the end of a list.
        weights: (B, M), finite, not negative, not all zero.
        fusion: How lists are merged, and the length of the result; None takes the defaults.

    Returns:
        (B, `fusion.k`) int64 item ids, best first, -1 behind the end of a shorter list.

    Raises:
        CandidateError: A list has a gap, repeats an item, or holds an item without a finite score; or the normalisation is
            `platt`, whose parameters `align` takes.
        TrainingError: The weights break a rule.
    """
    fusion = fusion or FusionConfig()
    return merged_lists(align(items, scores, fusion), weights[:, None], fusion, fusion.k)[:, 0]


def admitted(weights: Tensor, aligned: Aligned, fusion: FusionConfig) -> Tensor:
    """Returns the weights that lists are merged with: all merges, rewards and rankings take theirs from here.

    Args:
        weights: (B, G, M), see `softgrpo.ranking.aligned.check_weights`.
        aligned: Of B windows.
        fusion: How lists are merged, with its bounds.

    Raises:
        TrainingError: The weights break a rule of `check_weights`.
    """
    check_weights(weights, aligned)
    return within_bounds(weights, fusion)


def merged_lists(aligned: Aligned, weights: Tensor, fusion: FusionConfig, k: int) -> Tensor:
    """Merges the lists, best item first.

    Args:
        aligned: Of B windows, made with the same `fusion`.
        weights: (B, G, M), see `softgrpo.ranking.aligned.check_weights`.
        fusion: How lists are merged.
        k: Length of the merged lists.

    Returns:
        (B, G, k) int64 item ids, -1 behind the end of a shorter list.

    Raises:
        TrainingError: The weights break a rule of `check_weights`.
    """
    weights = admitted(weights, aligned, fusion)
    places = METHODS[fusion.method].order(aligned, weights, k)
    items = aligned.items[:, None].expand(-1, weights.shape[1], -1).gather(2, places.clamp(min=0))
    return items.masked_fill(places < 0, -1)


def target_ranks(aligned: Aligned, positions: Tensor, weights: Tensor, fusion: FusionConfig, max_rank: int) -> Tensor:
    """Ranks the targets in the merged lists.

    Args:
        aligned: Of B windows, made with the same `fusion`.
        positions: (B, T) from `softgrpo.ranking.aligned.target_positions`.
        weights: (B, G, M), see `softgrpo.ranking.aligned.check_weights`.
        fusion: How lists are merged.
        max_rank: Ranks above it are not needed.

    Returns:
        (B, G, T) int64 rank from 1 to `max_rank`; `ABSENT` for every other target and for padding.

    Raises:
        TrainingError: The weights break a rule of `check_weights`.
    """
    weights = admitted(weights, aligned, fusion)
    return METHODS[fusion.method].ranks(aligned, positions, weights, max_rank)


def contenders(aligned: Aligned, fusion: FusionConfig) -> Aligned:
    """Leaves out items that no weights bring into the first `fusion.k`: merging the others gives the same first k, in less time.

    Args:
        aligned: Of B windows, made with the same `fusion`.
        fusion: How lists are merged, and K.

    Returns:
        The same windows over fewer items; of depth min(D, K) for method `quota`. The lists' own order stays.
    """
    return METHODS[fusion.method].contenders(aligned, fusion.k)


def contributions(aligned: Aligned, merged: Tensor, weights: Tensor, fusion: FusionConfig) -> Tensor:
    """Returns what each recaller gave to each item of merged lists.

    Args:
        aligned: The lists of B windows.
        merged: (B, K) what `merged_lists` made of them.
        weights: (B, M) the weights it was made with.
        fusion: The way it was made.

    Returns:
        (B, K, M) float64: weight times value, 0 where the recaller does not have the item; for the method quota 1 for the recaller
        whose turn it was. 0 behind the end of a list.
    """
    places = target_positions(aligned, merged)
    inside = (places >= 0)[..., None]  # (B, K, 1)
    return METHODS[fusion.method].shares(aligned, places.clamp(min=0), within_bounds(weights, fusion)) * inside
