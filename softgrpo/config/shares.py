"""Rules on the bounds of the recallers' shares of the weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TOLERANCE = 1e-9
"""By how much sums of shares may miss 1: three times 1/3 is not quite 1."""


def check_shares(least: Mapping[str, float], most: Mapping[str, float], recallers: Sequence[str]) -> None:
    """Checks that some weights keep all bounds.

    Args:
        least: `fusion.min_share`, by recaller.
        most: `fusion.max_share`, by recaller.
        recallers: The pool.

    Raises:
        ValueError: A recaller is not in the pool, a lower bound is above the upper one, or no weights with sum 1 are within.
    """
    for setting, bounds in (("min_share", least), ("max_share", most)):
        strangers = sorted(set(bounds) - set(recallers))
        if strangers:
            raise ValueError(
                f"fusion.{setting} names {', '.join(strangers)}; the recallers of this run are {', '.join(recallers)}"
            )
    for name in recallers:
        low, high = least.get(name, 0.0), most.get(name, 1.0)
        if low > high:
            raise ValueError(
                f"fusion.min_share.{name} = {low:g} is above fusion.max_share.{name} = {high:g}; lower one or raise the other"
            )
    smallest = sum(least.values())
    if smallest > 1.0 + TOLERANCE:
        raise ValueError(f"the values of fusion.min_share sum to {smallest:g}; shares sum to 1, so lower some of them")
    largest = sum(most.get(name, 1.0) for name in recallers)
    if largest < 1.0 - TOLERANCE:
        raise ValueError(
            f"the values of fusion.max_share sum to {largest:g}; shares sum to 1, so raise some of them or leave one recaller out"
        )
