"""What quality costs: NDCG of some rows against measured milliseconds per user, as a part of a page.

Times differ from one measurement to the next, so they are no part of what a stage stores: stages report them, and the page gets
them when it is shown. The figure is written by hand, because a page that is shown must not wait for matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from operator import itemgetter
from typing import Any

import pandas as pd

from softgrpo.evaluation.pages.environment import markdown_cell
from softgrpo.evaluation.pages.frame import framed

HEIGHT, LEFT, TOP, BOTTOM = 300, 60, 16, 44
LABEL_PIXELS = 15
TITLE = "Quality against cost"
EMPTY = (
    "Measured times are no part of what a stage stores: `softgrpo report RUN --to FOLDER` writes this page with them."
)


@dataclass(frozen=True)
class Form:
    """How the figure is laid out.

    Attributes:
        width: In pixels.
        right: Pixels to the right of the axis; labels reach into them.
        listed: Whether points are numbered and their labels listed below the figure, because there is no room beside them.
    """

    width: int
    right: int
    listed: bool


WIDE, NARROW = Form(720, 200, listed=False), Form(350, 20, listed=True)


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


def costs_of(
    table: pd.DataFrame, k: int, lists: Mapping[str, float], merge: float, policy: float, best: str = ""
) -> tuple[Cost, ...]:
    """Returns what each single recaller, the best static mixture, SofT-GRPO and the chosen method cost.

    Args:
        table: See `softgrpo.evaluation.table.Comparison`.
        k: Cut-off of the NDCG.
        lists: Milliseconds of each recaller's list of one user.
        merge: Milliseconds of merging all lists of one user.
        policy: Milliseconds of the language model for one user.
        best: Key of the method that validation windows choose; it has no entry where its cost is not measured, "" where there is
            none.
    """
    whole = sum(lists.values()) + merge
    milliseconds = {**lists, "static": whole, "grpo_multi": whole + policy}
    rows = _rows(table)
    milliseconds |= {row["method"]: whole for row in rows if row["method"] == best and row["kind"] == "static"}
    milliseconds |= {"sft_multi": whole + policy} if best == "sft_multi" else {}
    return tuple(
        Cost(row["label"], row["kind"], row[f"ndcg@{k}"], milliseconds[row["method"]])
        for row in rows
        if row["method"] in milliseconds
    )


def without_cost(table: pd.DataFrame, costs: Sequence[Cost], best: str = "") -> str:
    """Says in one sentence which rows have no point and why; "" where none is missed.

    Args:
        table: See `costs_of`.
        costs: The rows that have one.
        best: See `costs_of`.
    """
    shown = {cost.label for cost in costs}
    left_out = [row for row in _rows(table) if row["label"] not in shown]
    chosen = [f"{row['label']} (chosen on validation windows)" for row in left_out if row["method"] == best]
    gates = sum(row["kind"] in ("gate", "ranker") and row["method"] != best for row in left_out)
    others = [f"{gates} {'row' if gates == 1 else 'rows'} learned without the language model"] if gates else []
    if not chosen and not others:
        return ""
    return f"No point for {' and '.join([*chosen, *others])}: what they add to the lists and the merge is not measured."


def costs_html(costs: Sequence[Cost], k: int, missing: str = "") -> str:
    """Returns a section of a page: the figure and what to see in it.

    Args:
        costs: The rows that have a point.
        k: Cut-off of the NDCG.
        missing: What has none, from `without_cost`.
    """
    caption = (
        f"NDCG@{k} against milliseconds per user, on a logarithmic axis; up and to the left is better. Measured on the machine "
        "that made the stages, many users at a time: single recallers pay for their own list, mixtures for all lists and the "
        "merge, SofT-GRPO for the language model as well."
    )
    figure = framed(_scatter(costs, k, WIDE), WIDE.width, _scatter(costs, k, NARROW), NARROW.width)
    text = f"{caption} {missing}".rstrip()
    return _section(f"<figure>{figure}\n<figcaption>{escape(text)}</figcaption></figure>")


def empty_html() -> str:
    """Returns the section of a page that times have not been filled into."""
    return _section(f"<p class='note'>{escape(EMPTY)}</p>")


def empty_markdown() -> str:
    """Returns the same in Markdown."""
    return f"## {TITLE}\n\n{EMPTY}"


def _section(content: str) -> str:
    return f'<section id="costs">\n<h2>{TITLE}</h2>\n{content}\n</section>'


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]  # names of columns are text
    return rows


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
    return _section(f"<p>{escape(unknown_sentence(unknown))}</p>")


def unknown_markdown(unknown: Sequence[str]) -> str:
    """Returns the same in Markdown."""
    return f"## {TITLE}\n\n{markdown_cell(unknown_sentence(unknown))}"


def costs_markdown(costs: Sequence[Cost], k: int, missing: str = "") -> str:
    """Returns what `costs_html` does as a table in Markdown."""
    rows = [f"| {markdown_cell(cost.label)} | {cost.ndcg:.4f} | {cost.milliseconds:.3g} |" for cost in costs]
    note = ["", markdown_cell(missing)] if missing else []
    return "\n".join(
        [f"## {TITLE}", "", f"| method | NDCG@{k} | milliseconds per user |", "|---|---:|---:|", *rows, *note]
    )


def _scatter(costs: Sequence[Cost], k: int, form: Form) -> str:
    decades = [math.log10(cost.milliseconds) for cost in costs]
    low, high = math.floor(min(decades)), max(math.ceil(max(decades)), math.floor(min(decades)) + 1)
    values = [cost.ndcg for cost in costs]
    bottom, top = min(values), max(values)
    room = 0.1 * (top - bottom) or 0.01

    def across(decade: float) -> float:
        return LEFT + (decade - low) / (high - low) * (form.width - LEFT - form.right)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - bottom + room) / (top - bottom + 2 * room) * (HEIGHT - TOP - BOTTOM)

    points = sorted(
        ((across(decade), up(cost.ndcg), cost) for decade, cost in zip(decades, costs, strict=True)), key=itemgetter(1)
    )
    parts = [_axes(low, high, across, form), *(_level(value, up(value)) for value in (bottom, top))]
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="var(--kind-{cost.kind})" stroke="var(--ink)"/>'
        for x, y, cost in points
    ]
    parts += _listed(points) if form.listed else _labels(points)
    height = HEIGHT + LABEL_PIXELS * (1 + len(points)) if form.listed else HEIGHT
    axis = f'<text x="{LEFT}" y="{HEIGHT - 6}">milliseconds per user</text><text x="{LEFT}" y="11">NDCG@{k}</text>'
    return (
        f'<svg viewBox="0 0 {form.width} {height}" role="img" aria-label="{TITLE}" font-size="12" '
        f'fill="var(--ink)">{axis}{"".join(parts)}</svg>'
    )


def _labels(points: Sequence[tuple[float, float, Cost]]) -> list[str]:
    """Returns labels beside points that come from the top down, on no other label and no other point."""
    labels, lowest = [], float("-inf")
    for x, y, cost in points:
        behind = any(other > x and abs(height - y) < LABEL_PIXELS for other, height, _ in points)
        lowest = max(y + LABEL_PIXELS if behind else y, lowest + LABEL_PIXELS)
        labels.append(f'<text x="{x + 12:.1f}" y="{lowest + 4:.1f}">{_label(cost)}</text>')
    return labels


def _listed(points: Sequence[tuple[float, float, Cost]]) -> list[str]:
    """Returns a number above each point and the list of their labels, from the top down."""
    parts = []
    for number, (x, y, cost) in enumerate(points, start=1):
        parts.append(f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">{number}</text>')
        parts.append(f'<text x="4" y="{HEIGHT + LABEL_PIXELS * number}">{number}. {_label(cost)}</text>')
    return parts


def _label(cost: Cost) -> str:
    return escape(f"{cost.label}: {cost.milliseconds:.3g} ms")


def _axes(low: int, high: int, across: Callable[[float], float], form: Form) -> str:
    foot = HEIGHT - BOTTOM
    lines = [f'<path d="M{LEFT} {TOP} V{foot} H{form.width - form.right}" fill="none" stroke="var(--soft)"/>']
    for decade in range(low, high + 1):
        x = across(decade)
        lines.append(f'<path d="M{x:.1f} {TOP} V{foot}" stroke="var(--line)"/>')
        lines.append(f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{10.0**decade:g}</text>')
    return "".join(lines)


def _level(value: float, y: float) -> str:
    return f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4f}</text>'
