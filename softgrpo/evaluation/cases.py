"""The users that a method helped and hurt most, in words, and what the data are. Legend: W test windows, T targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.evaluation.table import Comparison
from softgrpo.ranking.fusion import merged_lists
from softgrpo.ranking.sharded import Judged, windows_at


@dataclass(frozen=True)
class Shown:
    """An item as people read it.

    Attributes:
        title: Its title, or `item <token>` where it has none.
        hit: Whether it is a target.
    """

    title: str
    hit: bool


@dataclass(frozen=True)
class Case:
    """One user under two methods.

    Attributes:
        user: The user's token.
        gain: NDCG@`fusion.k` of the method minus that of the reference.
        history: Number of items before the window.
        latest: Titles of the latest items of the history, oldest first.
        targets: Titles of the items that came next.
        weights: The method's weight per recaller, in pool order.
        merged: First items of the method's list.
        reference: First items of the reference's list.
    """

    user: str
    gain: float
    history: int
    latest: tuple[str, ...]
    targets: tuple[str, ...]
    weights: tuple[float, ...]
    merged: tuple[Shown, ...]
    reference: tuple[Shown, ...]


def gains(comparison: Comparison, method: str, reference: str, metric: str) -> NDArray[np.float64]:
    """Returns (W,) a metric of one method minus that of another, window by window."""
    measured = comparison.measured
    return measured.column(method, metric) - measured.column(reference, metric)


def extreme_cases(
    comparison: Comparison,
    judged: Judged,
    corpus: Corpus,
    windows: Windows,
    method: str,
    reference: str,
    count: int = 3,
    items: int = 5,
) -> tuple[Case, ...]:
    """Describes the windows with the largest gains, then those with the largest losses, as far as there are any.

    Args:
        comparison: From `softgrpo.evaluation.table.compare`.
        judged: The same W windows.
        corpus: For titles and histories.
        windows: For the place of each window; `comparison.measured` holds its number.
        method: Key of the method that is looked at.
        reference: Key of the method that it is compared with.
        count: At most this many winners, and as many losers.
        items: Items shown of histories and lists.
    """
    gain = gains(comparison, method, reference, f"ndcg@{judged.fusion.k}")
    order = np.argsort(-gain, kind="stable")
    rows = [row for row in order[:count] if gain[row] > 0] + [row for row in order[::-1][:count] if gain[row] < 0]
    numbers = comparison.measured.windows
    cases = []
    for row in rows:
        number = numbers[row]
        start, end = int(windows.start[number]), int(windows.end[number])
        sequence = corpus.sequence(int(windows.user[number]))
        targets = {int(item) for item in sequence[start:end]}
        weights = comparison.method(method).weights[row]
        lists = [
            _shown(corpus, judged if of.merged_as is None else of.merged_as, int(row), of.weights[row], targets, items)
            for of in (comparison.method(method), comparison.method(reference))
        ]
        cases.append(
            Case(
                user=str(corpus.users[Columns.Token].iloc[int(windows.user[number])]),
                gain=float(gain[row]),
                history=start,
                latest=tuple(_title(corpus, int(item)) for item in sequence[max(0, start - items) : start]),
                targets=tuple(_title(corpus, int(item)) for item in sequence[start:end]),
                weights=tuple(weights.tolist()),
                merged=lists[0],
                reference=lists[1],
            )
        )
    return tuple(cases)


def _title(corpus: Corpus, item: int) -> str:
    row = corpus.items.iloc[item]
    return str(row[Columns.Title]) or f"item {row[Columns.Token]}"


def _shown(
    corpus: Corpus, judged: Judged, row: int, weights: torch.Tensor, targets: set[int], count: int
) -> tuple[Shown, ...]:
    window = windows_at(judged, np.array([row]))
    merged = merged_lists(window.aligned, weights[None, None], window.fusion, count)[0, 0]
    return tuple(Shown(_title(corpus, item), item in targets) for item in merged.tolist() if item >= 0)


def data_facts(corpus: Corpus, windows: Windows, tied: float, later: float) -> dict[str, str]:
    """Returns what a reader wants to know about the data, label to value.

    Args:
        corpus: All interactions.
        windows: All windows.
        tied: Share of test targets with a tied time, NaN without times; see `softgrpo.data.windows.tied_target_share`.
        later: Share of training interactions later than a test window's first target, likewise; see
            `softgrpo.data.windows.later_training_share`.
    """
    users, items, interactions = corpus.num_users, corpus.num_items, len(corpus.item)
    lengths = np.diff(corpus.offsets)
    facts = {
        "users, items, interactions": f"{users:,}, {items:,}, {interactions:,}",
        "density": f"{interactions / max(1, users * items):.3%}",
        "interactions per user": f"median {np.median(lengths):.0f}, from {lengths.min()} to {lengths.max()}",
        "test targets with a tied time": "no usable times" if pd.isna(tied) else f"{tied:.1%}",
    }
    if not pd.isna(later):
        facts["training interactions later than a test window's first target"] = f"{later:.1%}, mean over test windows"
    for part in (Part.EARLIER, Part.POLICY, Part.VALID, Part.TEST):
        rows = windows.of(part)
        if part == Part.EARLIER and not len(rows):
            continue  # split.cross_fit is off
        facts[f"{part.name.lower()} windows"] = f"{len(rows):,} of {len(np.unique(windows.user[rows])):,} users"
    return facts
