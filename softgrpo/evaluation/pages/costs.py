"""What quality costs: NDCG of some rows against measured milliseconds per user, as a part of a page.

Times differ from one measurement to the next, so they are no part of what a stage stores: stages report them, and the page gets
them when it is shown. The figure is written by hand, because a page that is shown must not wait for matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from softgrpo.evaluation.pages.environment import markdown_cell
from softgrpo.evaluation.pages.frame import framed

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 60, 200, 16, 44
LABEL_PIXELS = 15
TITLE = "Quality against cost"


@dataclass(frozen=True)
class Cost:
    """One row and what it costs.

    Attributes:
        label: Of the row.
        kind: Of the row.
        ndcg: NDCG@k, mean over users.
        milliseconds: Per user: all lists that it needs, merging, and the language model where it asks one.
    """

    label: str
    kind: str
    ndcg: float
    milliseconds: float


def costs_of(table: pd.DataFrame, k: int, lists: Mapping[str, float], merge: float, policy: float) -> tuple[Cost, ...]:
    """Returns what each single recaller, the best static mixture and SofT-GRPO cost.

    Args:
        table: See `softgrpo.evaluation.table.Comparison`.
        k: Cut-off of the NDCG.
        lists: Milliseconds of each recaller's list of one user.
        merge: Milliseconds of merging all lists of one user.
        policy: Milliseconds of the language model for one user.
    """
    whole = sum(lists.values()) + merge
    milliseconds = {**lists, "static": whole, "grpo_multi": whole + policy}
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]  # names of columns are text
    return tuple(
        Cost(row["label"], row["kind"], row[f"ndcg@{k}"], milliseconds[row["method"]])
        for row in rows
        if row["method"] in milliseconds
    )


def costs_html(costs: Sequence[Cost], k: int) -> str:
    """Returns a section of a page: the figure and what to see in it."""
    caption = (
        f"NDCG@{k} against milliseconds per user, on a logarithmic axis; up and to the left is better. Measured on the machine "
        "that made the stages, many users at a time: single recallers pay for their own list, mixtures for all lists and the "
        "merge, SofT-GRPO for the language model as well."
    )
    return (
        f'<section id="costs">\n<h2>{TITLE}</h2>\n<figure>{framed(_scatter(costs, k), WIDTH)}\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n</section>"
    )


def unknown_sentence(unknown: Sequence[str]) -> str:
    """Says why there is no figure.

    Args:
        unknown: What has no measured time, in words.
    """
    return (
        f"There is no figure: no time is known for {', '.join(unknown)}. Times are measured while a stage is made: lists that come "
        "from a file have none, and neither has a stage that an earlier version made. "
        "Repeat such a stage with --force to measure it."
    )


def unknown_html(unknown: Sequence[str]) -> str:
    """Returns the section of a page where times are not known, see `unknown_sentence`."""
    return f'<section id="costs">\n<h2>{TITLE}</h2>\n<p>{escape(unknown_sentence(unknown))}</p>\n</section>'


def unknown_markdown(unknown: Sequence[str]) -> str:
    """Returns the same in Markdown."""
    return f"## {TITLE}\n\n{markdown_cell(unknown_sentence(unknown))}"


def costs_markdown(costs: Sequence[Cost], k: int) -> str:
    """Returns the same as a table in Markdown."""
    rows = [f"| {cost.label} | {cost.ndcg:.4f} | {cost.milliseconds:.3g} |" for cost in costs]
    return "\n".join([f"## {TITLE}", "", f"| method | NDCG@{k} | milliseconds per user |", "|---|---:|---:|", *rows])


def _scatter(costs: Sequence[Cost], k: int) -> str:
    decades = [math.log10(cost.milliseconds) for cost in costs]
    low, high = math.floor(min(decades)), max(math.ceil(max(decades)), math.floor(min(decades)) + 1)
    values = [cost.ndcg for cost in costs]
    bottom, top = min(values), max(values)
    room = 0.1 * (top - bottom) or 0.01

    def across(decade: float) -> float:
        return LEFT + (decade - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - bottom + room) / (top - bottom + 2 * room) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(low, high, across), *(_level(value, up(value)) for value in (bottom, top))]
    lowest = float("-inf")
    points = sorted(zip(decades, costs, strict=True), key=lambda pair: up(pair[1].ndcg))
    for decade, cost in points:
        x, y = across(decade), up(cost.ndcg)
        behind = any(each > decade and abs(up(other.ndcg) - y) < LABEL_PIXELS for each, other in points)
        lowest = max(y + LABEL_PIXELS if behind else y, lowest + LABEL_PIXELS)  # on no other label and no other point
        text = escape(f"{cost.label}: {cost.milliseconds:.3g} ms")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="var(--kind-{cost.kind})" stroke="var(--ink)"/>')
        parts.append(f'<text x="{x + 12:.1f}" y="{lowest + 4:.1f}">{text}</text>')
    axis = f'<text x="{LEFT}" y="{HEIGHT - 6}">milliseconds per user</text><text x="{LEFT}" y="11">NDCG@{k}</text>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{TITLE}" font-size="12" '
        f'fill="var(--ink)">{axis}{"".join(parts)}</svg>'
    )


def _axes(low: int, high: int, across: Callable[[float], float]) -> str:
    foot = HEIGHT - BOTTOM
    lines = [f'<path d="M{LEFT} {TOP} V{foot} H{WIDTH - RIGHT}" fill="none" stroke="var(--soft)"/>']
    for decade in range(low, high + 1):
        x = across(decade)
        lines.append(f'<path d="M{x:.1f} {TOP} V{foot}" stroke="var(--line)"/>')
        lines.append(f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{10.0**decade:g}</text>')
    return "".join(lines)


def _level(value: float, y: float) -> str:
    return f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4f}</text>'
