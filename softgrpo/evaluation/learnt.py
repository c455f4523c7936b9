"""Whether training changed anything: how far a policy's weights are from where it started, and how they differ between users."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from softgrpo.evaluation.table import Comparison

EQUAL = 1e-6
"""Weights that differ by no more than this are called the same: float32 logits round about so much."""
STARTS = {"sft_multi": "static", "grpo_multi": "sft_multi"}
"""Row of a trained policy -> row of what its training started from; the first holds for policies with a static prior."""


@dataclass(frozen=True)
class Learnt:
    """What one training changed on the test windows.

    Attributes:
        label: Of the trained policy's row.
        start: Label of the row it started from; None where it started from random weights.
        spread: Standard deviation of a recaller's weight over windows, mean over recallers, in [0, 0.5].
        moved: Half the sum of the absolute differences to the start's weights, mean over windows, in [0, 1]; None without a start.
        kept: Whether all weights are the start's.
        uniform: Whether every window gets the same weights.
    """

    label: str
    start: str | None
    spread: float
    moved: float | None
    kept: bool
    uniform: bool


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
        start=None if start is None else start.label,
        spread=float(row.weights.std(0, correction=0).mean()),
        moved=None if moved is None else float(moved.sum(1).mean() / 2),
        kept=moved is not None and float(moved.max()) <= EQUAL,
        uniform=_largest_range(row.weights) <= EQUAL,
    )


def _largest_range(weights: Tensor) -> float:
    """Returns the largest difference between two windows in the weight of one recaller; weights (W, M)."""
    return float((weights.amax(0) - weights.amin(0)).max())


def learnt_sentence(comparison: Comparison, key: str, static_prior: bool) -> str:
    """Says in one sentence what the training of a row changed, and of the training before it where it kept that one's weights.

    Args:
        comparison: All rows on the test windows.
        key: Of the row, among `STARTS`.
        static_prior: Whether SFT started at the best static mixture.
    """
    found = learnt(comparison, key, static_prior)
    spread = (
        "this policy gives every user the same weights"
        if found.uniform
        else f"its weights differ between users (standard deviation {found.spread:.2g}, mean over recallers)"
    )
    if found.start is None:
        return f"{found.label} started from random weights; {spread}."
    if not found.kept:
        return f"{found.label} moved {found.moved:.2g} of the weight away from its starting point, {found.start}; {spread}."
    before = STARTS[key]
    if before in STARTS and learnt(comparison, before, static_prior).kept:
        first = learnt(comparison, before, static_prior).start
        return f"{found.label} and {found.start} both kept their starting point, {first}: nothing was learnt; {spread}."
    nothing = ": nothing was learnt" if found.uniform and before not in STARTS else ""
    return f"{found.label} kept its starting point, {found.start}{nothing}; {spread}."
