"""Whether training changed anything: how far a policy's weights are from where it started, and how they differ between users."""

from __future__ import annotations

from dataclasses import dataclass

from softgrpo.evaluation.table import Comparison

EQUAL = 1e-6
"""Weights that differ by no more than this are called the same: float32 logits round about so much."""
NEGLIGIBLE = 1e-3
"""Weights of two users that differ by no more than this are practically the same."""
STARTS = {"sft_multi": "static", "grpo_multi": "sft_multi"}
"""Row of a trained policy -> row of what its training started from; the first holds for policies with a static prior."""


@dataclass(frozen=True)
class Learnt:
    """What one training changed on the test windows.

    Attributes:
        label: Of the trained policy's row.
        start: What the row it started from is called in a sentence; None where it started from random weights.
        spread: Standard deviation of a recaller's weight over windows, mean over recallers, in [0, 0.5].
        moved: Half the sum of the absolute differences to the start's weights, mean over windows, in [0, 1]; None without a start.
        kept: Whether all weights are the start's.
        widest: Largest difference between two windows in the weight of one recaller, in [0, 1].
    """

    label: str
    start: str | None
    spread: float
    moved: float | None
    kept: bool
    widest: float

    @property
    def uniform(self) -> bool:
        """Whether every window gets practically the same weights."""
        return self.widest <= NEGLIGIBLE

    @property
    def idle(self) -> bool:
        """Whether training changed practically nothing."""
        return self.uniform and self.moved is not None and self.moved <= NEGLIGIBLE

    @property
    def spread_words(self) -> str:
        """How the weights differ between users."""
        if self.widest <= EQUAL:
            return "this policy gives every user the same weights"
        if self.uniform:
            return (
                f"this policy gives every user practically the same weights (they differ by at most {self.widest:.1g})"
            )
        return f"its weights differ between users (standard deviation {self.spread:.2g}, mean over recallers)"


def learnt(comparison: Comparison, key: str, static_prior: bool) -> Learnt:
    """Compares a policy's weights with those it started from, and with each other.

    Args:
        comparison: All rows on the test windows.
        key: Of the policy's row, among `STARTS`.
        static_prior: Whether SFT started at the best static mixture.
    """
    row = comparison.method(key)
    start = None if key == "sft_multi" and not static_prior else comparison.method(STARTS[key])
    moved = None if start is None else (row.weights - start.weights).abs()
    return Learnt(
        label=row.label,
        start=None if start is None else _in_a_sentence(start.label),
        spread=float(row.weights.std(0, correction=0).mean()),
        moved=None if moved is None else float(moved.sum(1).mean() / 2),
        kept=moved is not None and float(moved.max()) <= EQUAL,
        widest=float((row.weights.amax(0) - row.weights.amin(0)).max()),
    )


def _in_a_sentence(label: str) -> str:
    """Returns a label as it stands in the middle of a sentence; names such as `SFT multi` stay as they are."""
    first, _, rest = label.partition(" ")
    return f"the {first.lower()} {rest}" if first == "Best" else label


def learnt_sentence(comparison: Comparison, key: str, static_prior: bool) -> str:
    """Says in one sentence what the training of a row changed, and of the training before it where it kept that one's weights.

    Args:
        comparison: All rows on the test windows.
        key: Of the row, among `STARTS`.
        static_prior: Whether SFT started at the best static mixture.
    """
    outcome = learnt(comparison, key, static_prior)
    if outcome.start is None:
        return f"{outcome.label} started from random weights; {outcome.spread_words}."
    if not outcome.kept:
        moved = f"{outcome.label} moved {outcome.moved:.2g} of the weight away from its starting point, {outcome.start}"
        return f"{moved}{_nothing(outcome)}; {outcome.spread_words}."
    before = STARTS[key]
    first = learnt(comparison, before, static_prior) if before in STARTS else None
    if first is None:
        return f"{outcome.label} kept its starting point, {outcome.start}{_nothing(outcome)}; {outcome.spread_words}."
    if first.kept:
        both = f"{outcome.label} and {outcome.start} both kept their starting point, {first.start}"
        return f"{both}{_nothing(first)}; {outcome.spread_words}."
    kept = f"{outcome.label} kept its starting point, {outcome.start}"
    if first.start is None:
        return f"{kept}; {outcome.spread_words}."
    moved = f"which had moved {first.moved:.2g} of the weight away from {first.start}"
    return f"{kept}, {moved}{_nothing(first)}; {outcome.spread_words}."


def _nothing(outcome: Learnt) -> str:
    if not outcome.idle:
        return ""
    return ": nothing was learnt" if outcome.kept else ": practically nothing was learnt"
