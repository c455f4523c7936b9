"""Figures of the report about the result: comparison, gains, lift, confusion matrix. Legend: W windows, U users."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softgrpo.config import EvaluationConfig
from softgrpo.evaluation.lift import Lift
from softgrpo.evaluation.plot_style import COLOURS, INK, STYLE, draw_cells, label_bar
from softgrpo.evaluation.significance import paired_bootstrap

REFERENCES = {"vs_single": "the best single recaller", "vs_static": "the best static mixture"}
"""Prefix of the columns of differences -> what people call the reference."""
REFERENCE_COLOURS = ("#7a8794", COLOURS["static"])
"""Of the best single recaller and the best static mixture, as lines."""
CURVE_POINTS = 201
LEGEND_ROOM = 0.45
"""Of a panel whose points may be anywhere: what its axis is longer by, so that the legend covers none."""
EDGE = 0.4
"""Rows between the middle of the first or last bar and the end of its panel."""
TITLE_CHARACTERS = 34
"""Of a line in the heading of a panel."""


def comparison_figure(table: pd.DataFrame, k: int, references: Mapping[str, str] = REFERENCES) -> Figure:
    """Draws NDCG@k of every method, and its difference to each reference with the interval.

    Args:
        table: See `softgrpo.evaluation.table.Comparison`.
        k: Cut-off.
        references: Prefix of columns of differences -> what people call the reference.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4 + 2.6 * len(references), 0.3 * len(table) + 0.9))
        left, *others = figure.subplots(1, 1 + len(references), sharey=True)
        rows = np.arange(len(table))
        colours = [COLOURS[kind] for kind in table["kind"]]
        left.barh(rows, table[f"ndcg@{k}"], color=colours, height=0.7)
        for row, value in zip(rows, table[f"ndcg@{k}"], strict=True):
            label_bar(left, value, int(row), f"{value:.4f}")
        left.set_yticks(rows, table["label"])
        left.set_ylim(len(table) - EDGE, EDGE - 1)  # the first row on top, and no empty place above it
        left.margins(x=0.22)
        left.set_title(f"NDCG@{k}")
        for axis, (column, name) in zip(others, references.items(), strict=True):
            axis.axvline(0, color=INK, linewidth=0.8)
            middle, low, high = (table[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high"))
            for row, colour in zip(rows, colours, strict=True):
                axis.plot([low[row], high[row]], [row, row], color=colour, linewidth=3, solid_capstyle="round")
                axis.plot(middle[row], row, "o", color=colour, markeredgecolor=INK, markersize=4)
            axis.grid(axis="x")
            axis.locator_params(axis="x", nbins=5)
            axis.set_title(textwrap.fill(f"minus {name}", TITLE_CHARACTERS))
        figure.tight_layout()
    return figure


def confusion_figure(table: pd.DataFrame) -> Figure:
    """Draws a confusion matrix: best recaller by row, chosen by column; colours are shares of the row, numbers windows."""
    values = table.to_numpy()
    shares = values / np.maximum(values.sum(1, keepdims=True), 1e-9)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.9 * len(table) + 2.2, 0.5 * len(table) + 1.1))
        axis = figure.subplots()
        draw_cells(axis, shares, [[f"{value:.0f}" for value in row] for row in values])
        axis.set_xticks(range(len(table)), list(table.columns))
        axis.set_yticks(range(len(table)), list(table.index))
        axis.set_xlabel("recaller with the largest weight")
        axis.set_ylabel("recaller with the best list")
        figure.tight_layout()
    return figure


def gains_figure(gains: Mapping[str, NDArray[np.float64]], label: str, k: int, inches: float = 6.8) -> Figure:
    """Draws the gain of every user, largest first.

    Args:
        gains: (U,) NDCG@k of the method minus that of each reference, by what the reference is called; at most two.
        label: What the method is called.
        k: Cut-off.
        inches: Width of the figure.
    """
    share = np.linspace(0, 1, CURVE_POINTS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(inches, 2.6))
        axis = figure.subplots()
        axis.axhline(0, color=INK, linewidth=0.8)
        for (reference, values), colour in zip(gains.items(), REFERENCE_COLOURS, strict=False):
            ordered = np.quantile(values, 1 - share, method="nearest")
            axis.step(100 * share, ordered, color=colour, linewidth=1.8, where="mid", label=f"over {reference}")
            axis.fill_between(100 * share, ordered, step="mid", color=colour, alpha=0.15, linewidth=0)
        axis.set_xlim(0, 100)
        axis.set_xlabel("users, largest gain first (%)")
        axis.set_ylabel(f"NDCG@{k} gain of a user")
        axis.set_title(label)
        axis.legend()
        axis.grid(axis="y")
        figure.tight_layout()
    return figure


def lift_figure(lift: Lift) -> Figure:
    """Draws NDCG@k over k, and how much larger that of the method is than that of each reference with the interval.

    A reference that the method does not differ from has no line in the second panel.
    """
    label, references = lift.label, lift.ndcg.columns[1:]
    shares = 100 * lift.shares
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 2.7))
        left, right = figure.subplots(1, 2)
        for name, colour in zip(lift.ndcg, (COLOURS["learned"], *REFERENCE_COLOURS), strict=True):
            style = {"linestyle": "--", "zorder": 3} if name == label else {}  # an equal line below can be seen
            left.plot(lift.ndcg.index, lift.ndcg[name], color=colour, linewidth=1.8, label=name, **style)
        left.set_title("NDCG@k")
        left.legend()
        right.axhline(0, color=INK, linewidth=0.8)
        for name, colour in zip(references, REFERENCE_COLOURS, strict=True):
            if name in lift.flat:
                continue
            right.plot(shares.index, shares[name], color=colour, linewidth=1.8, label=f"over {name}")
            if lift.low is not None and lift.high is not None:
                low, high = 100 * lift.low[name], 100 * lift.high[name]
                right.fill_between(shares.index, low, high, color=colour, alpha=0.2, linewidth=0)
        right.set_title(f"{label}: lift in %")
        right.legend()
        for axis in (left, right):
            axis.set_xlabel("k, length of the list that is looked at")
            axis.grid(axis="y")
        figure.tight_layout()
    return figure


def fifths_figure(
    gains: Mapping[str, NDArray[np.float64]],
    number: NDArray[np.integer] | NDArray[np.floating],
    name: str,
    label: str,
    settings: EvaluationConfig,
    seed: int,
) -> Figure:
    """Draws mean gains in fifths of the windows by a number, with bootstrap intervals over windows.

    Args:
        gains: (W,) of each reference, by what it is called; at most two.
        number: (W,) such as the items in the history.
        name: What the number is called.
        label: What the method is called.
        settings: Of the bootstrap.
        seed: Of the bootstrap.
    """
    fifth = pd.qcut(number, 5, labels=False, duplicates="drop")  # equal values stay together: fewer groups than 5
    groups = [np.flatnonzero(np.nan_to_num(fifth) == value) for value in np.unique(np.nan_to_num(fifth))]
    columns = np.stack(list(gains.values()), axis=1)  # (W, references)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 2.6))
        axis = figure.subplots()
        axis.axhline(0, color=INK, linewidth=0.8)
        for place, group in enumerate(groups):
            result = paired_bootstrap(columns[group], settings.bootstrap, settings.confidence, seed)
            for column, (reference, colour) in enumerate(zip(gains, REFERENCE_COLOURS, strict=False)):
                x = place + 0.2 * column - 0.1 * (len(gains) - 1)
                axis.plot([x, x], [result.low[column], result.high[column]], color=colour, linewidth=3, alpha=0.6)
                shown = f"over {reference}" if place == 0 else None
                axis.plot(x, result.mean[column], "o", color=colour, label=shown)
        ends = [(number[group].min(), number[group].max()) for group in groups]
        axis.set_xticks(range(len(groups)), [f"{low:.0f} to {high:.0f}" for low, high in ends])
        axis.set_xlim(-0.5, len(groups) - 0.5)
        axis.set_xlabel(f"{name} (fifths of the users)")
        axis.set_ylabel("mean NDCG gain")
        axis.set_title(label)
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + LEGEND_ROOM * (high - low))
        axis.legend(loc="upper right")
        axis.grid(axis="y")
        figure.tight_layout()
    return figure
