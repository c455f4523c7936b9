"""Figures of the report, as PNG and SVG; the same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softgrpo.config import EvaluationConfig
from softgrpo.evaluation.significance import paired_bootstrap

COLOURS = {"single": "#9aa5b1", "static": "#5b8db8", "gate": "#7a9e5f", "learned": "#d1603d", "oracle": "#d9dde2"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "softgrpo",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
}


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `<name>.png` and `<name>.svg` and returns their paths. Figures are drawn without a display."""
    paths = folder / f"{name}.png", folder / f"{name}.svg"
    with mpl.rc_context(_STYLE):
        figure.savefig(paths[0], dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(paths[1], bbox_inches="tight", metadata={"Date": None})
    return paths


def comparison_figure(table: pd.DataFrame, k: int) -> Figure:
    """Draws NDCG@k of every method, and its difference to the best single recaller with the interval."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 0.36 * len(table) + 1.1))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1])
        rows = np.arange(len(table))
        colours = [COLOURS[kind] for kind in table["kind"]]
        left.barh(rows, table[f"ndcg@{k}"], color=colours, height=0.7)
        for row, value in zip(rows, table[f"ndcg@{k}"], strict=True):
            left.text(value, row, f" {value:.4f}", va="center", fontsize=8)
        left.set_yticks(rows, table["label"])
        left.invert_yaxis()
        left.margins(x=0.15)
        left.set_title(f"NDCG@{k}")
        right.axvline(0, color="#333333", linewidth=0.8)
        middle, low, high = (table[f"vs_single{end}"].to_numpy() for end in ("", "_low", "_high"))
        for row, colour in zip(rows, colours, strict=True):
            right.plot([low[row], high[row]], [row, row], color=colour, linewidth=3, solid_capstyle="round")
            right.plot(middle[row], row, "o", color=colour, markeredgecolor="#333333", markersize=5)
        right.grid(axis="x")
        right.set_title(f"NDCG@{k} minus that of the best single recaller")
        figure.tight_layout()
    return figure


def weights_figure(weights: Mapping[str, NDArray[np.float64]], recallers: tuple[str, ...]) -> Figure:
    """Draws how the weight of each recaller is spread over test windows; one panel per method, weights (W, M)."""
    columns = min(2, len(weights))
    rows = -(-len(weights) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * columns, (0.35 * len(recallers) + 1.0) * rows))
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).ravel()
        for axis in panels[len(weights) :]:
            axis.set_visible(False)
        for axis, (label, values) in zip(panels, weights.items(), strict=False):
            axis.boxplot(
                list(values.T[::-1]),
                orientation="horizontal",
                tick_labels=recallers[::-1],
                whis=(5, 95),
                showfliers=False,
                widths=0.55,
                patch_artist=True,
                boxprops={"facecolor": "#f3d9cf", "edgecolor": COLOURS["learned"]},
                medianprops={"color": COLOURS["learned"], "linewidth": 2},
            )
            axis.plot(values.mean(0)[::-1], np.arange(len(recallers)) + 1, "D", color="#333333", markersize=4)
            axis.set_xlim(-0.02, 1.02)
            axis.grid(axis="x")
            axis.set_title(label)
        for axis in panels[max(0, len(weights) - columns) : len(weights)]:  # the lowest of each column
            axis.tick_params(labelbottom=True)
        figure.supxlabel("weight; box: middle half of users, whiskers: 5 to 95 %, diamond: mean", fontsize=7)
        figure.tight_layout()
    return figure


def confusion_figure(table: pd.DataFrame) -> Figure:
    """Draws a confusion matrix: best recaller by row, chosen by column; colours are shares of the row, numbers windows."""
    values = table.to_numpy()
    shares = values / np.maximum(values.sum(1, keepdims=True), 1e-9)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(0.9 * len(table) + 2.2, 0.6 * len(table) + 1.3))
        axis = figure.subplots()
        axis.imshow(shares, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(*values.shape):
            ink = "white" if shares[row, column] > 0.6 else "#333333"
            axis.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center", color=ink)
        axis.set_xticks(range(len(table)), list(table.columns))
        axis.set_yticks(range(len(table)), list(table.index))
        axis.set_xlabel("largest weight")
        axis.set_ylabel("best recaller")
        figure.tight_layout()
    return figure


def curves_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draws training curves, one panel each; frames have the columns `step` and `value`."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * columns, 2.3 * rows))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, frame) in zip(panels, curves.items(), strict=False):
            marker = "o" if len(frame) <= 10 else ""
            axis.plot(frame["step"], frame["value"], color="#d1603d", linewidth=1.2, marker=marker, markersize=3)
            axis.set_title(name)
            axis.set_xlabel("step", fontsize=7)
            axis.grid()
        for axis in panels[len(curves) :]:
            axis.set_visible(False)
        figure.tight_layout()
    return figure


def history_figure(
    gains: Mapping[str, NDArray[np.float64]],
    length: NDArray[np.integer],
    label: str,
    settings: EvaluationConfig,
    seed: int,
) -> Figure:
    """Draws mean gains in fifths by history length, with bootstrap intervals over windows.

    Args:
        gains: (W,) of each reference, by what it is called; at most two.
        length: (W,) items in the history.
        label: What the method is called.
        settings: Of the bootstrap.
        seed: Of the bootstrap.
    """
    fifth = pd.qcut(length, 5, labels=False, duplicates="drop")  # equal lengths stay together: fewer groups than 5
    groups = [np.flatnonzero(np.nan_to_num(fifth) == value) for value in np.unique(np.nan_to_num(fifth))]
    columns = np.stack(list(gains.values()), axis=1)  # (W, references)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.5, 2.8))
        axis = figure.subplots()
        axis.axhline(0, color="#333333", linewidth=0.8)
        for place, group in enumerate(groups):
            result = paired_bootstrap(columns[group], settings.bootstrap, settings.confidence, seed)
            for number, (reference, colour) in enumerate(
                zip(gains, (COLOURS["learned"], COLOURS["static"]), strict=False)
            ):
                x = place + 0.2 * number - 0.1 * (len(gains) - 1)
                axis.plot([x, x], [result.low[number], result.high[number]], color=colour, linewidth=3, alpha=0.6)
                shown = f"over {reference}" if place == 0 else None
                axis.plot(x, result.mean[number], "o", color=colour, label=shown)
        axis.set_xticks(range(len(groups)), [f"{length[group].min()} to {length[group].max()}" for group in groups])
        axis.set_xlabel("items in the history (fifths of the users)")
        axis.set_title(f"{label}: NDCG gain")
        axis.legend(fontsize=7, frameon=False)
        axis.grid(axis="y")
        figure.tight_layout()
    return figure
