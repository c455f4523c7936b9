"""What a reader of a report must know to read some of its rows rightly, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from softgrpo.evaluation.rows import Method

RAW_SCORES = "score, none"
"""Name of the merge that adds scores as the recallers give them, see `softgrpo.config.FusionConfig.name`."""
SINGLE_CHOICE = "_single"
"""End of the key of a row that shows the recaller with the largest weight alone."""


def largest_weight_note(merge: str) -> str:
    """Says why the largest weight does not name the best recaller; "" where the merge makes weights comparable.

    Args:
        merge: Name of the run's merge.
    """
    if merge != RAW_SCORES:
        return ""
    return (
        f"The merge '{merge}' multiplies weights with raw scores, whose size differs between recallers: the largest weight "
        "goes to a recaller with small scores, not to the best one."
    )


def single_rows_note(merge: str, methods: Sequence[Method]) -> str:
    """Says the same of the rows that show the recaller with the largest weight alone; "" where there is nothing to say.

    Args:
        merge: Name of the run's merge.
        methods: All rows.
    """
    labels = [method.label for method in methods if method.kind == "learned" and method.key.endswith(SINGLE_CHOICE)]
    note = largest_weight_note(merge)
    if not labels or not note:
        return ""
    return f"{' and '.join(labels)} show the recaller with the largest weight alone. {note}"


def without_places_note(methods: Sequence[Method]) -> str:
    """Says why some rows have no share of places from each recaller; "" where all have."""
    labels = [method.label for method in methods if not method.weighs]
    if not labels:
        return ""
    return (
        f"Places from recallers are blank for {' and '.join(labels)}: such a row orders the items of all lists one by one, without "
        "weights for recallers."
    )
