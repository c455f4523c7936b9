"""Figures of the report about recallers, weights and trainings. Legend: W windows, M recallers."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from softgrpo.evaluation.coverage import Coverage
from softgrpo.evaluation.drivers import Drivers
from softgrpo.evaluation.formatting import signed
from softgrpo.evaluation.plot_style import COLOURS, INK, PALETTE, STYLE, draw_cells, label_bar

SHOWN_DRIVERS = 8
FEW_POINTS = 10


def coverage_figure(coverage: Coverage) -> Figure:
    """Draws what each recaller finds, alone and together with others, and how far recallers find the same targets."""
    count = len(coverage.recallers)
    hits, unique = np.array(coverage.hits), np.array(coverage.unique)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4 + 0.75 * count, 0.42 * count + 1.5))
        left, right = figure.subplots(1, 2, width_ratios=[4.4, 0.9 * count + 1])
        rows = np.arange(count)
        share = 100 / coverage.targets
        left.barh(rows, share * unique, color=COLOURS["learned"], height=0.6, label="no other finds it")
        left.barh(
            rows, share * (hits - unique), left=share * unique, color=COLOURS["single"], height=0.6, label="others too"
        )
        for row in rows:
            label_bar(left, share * hits[row], int(row), f"{unique[row]:,} alone, {hits[row]:,} in all")
        left.set_yticks(rows, coverage.recallers)
        left.invert_yaxis()
        left.margins(x=0.45)
        left.set_xlabel("targets of the test windows that its list holds (%)")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.32), ncols=2, borderaxespad=0)
        shares = coverage.overlap
        draw_cells(right, shares, [[f"{value:.0%}" for value in row] for row in shares])
        right.set_xticks(rows, coverage.recallers, rotation=30 if count > 3 else 0)
        right.set_yticks(rows, coverage.recallers)
        right.set_xlabel("... this one finds too")
        right.set_ylabel("of the hits of ...")
        figure.tight_layout()
    return figure


def weights_figure(weights: Mapping[str, NDArray[np.float64]], recallers: tuple[str, ...]) -> Figure:
    """Draws how the weight of each recaller is spread over test windows; one panel per method, weights (W, M)."""
    columns = min(2, len(weights))
    rows = -(-len(weights) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * columns, (0.3 * len(recallers) + 0.8) * rows))
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).ravel()
        for axis in panels[len(weights) :]:
            axis.set_visible(False)
        for axis, (label, values) in zip(panels, weights.items(), strict=False):
            axis.boxplot(
                list(values.T[::-1]),
                orientation="horizontal",
                manage_ticks=False,  # panels share their ticks, and each would add its own
                whis=(5, 95),
                showfliers=False,
                widths=0.55,
                patch_artist=True,
                boxprops={"facecolor": (0.82, 0.376, 0.239, 0.25), "edgecolor": COLOURS["learned"]},
                medianprops={"color": COLOURS["learned"], "linewidth": 2},
                whiskerprops={"color": INK},
                capprops={"color": INK},
            )
            axis.plot(values.mean(0)[::-1], np.arange(len(recallers)) + 1, "D", color=INK, markersize=4)
            axis.set_yticks(range(1, len(recallers) + 1), recallers[::-1])
            axis.set_xlim(-0.02, 1.02)
            axis.grid(axis="x")
            axis.set_title(label)
        for axis in panels[max(0, len(weights) - columns) : len(weights)]:  # the lowest of each column
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("weight")
        figure.tight_layout()
    return figure


def drivers_figure(drivers: Drivers) -> Figure:
    """Draws which numbers of the windows go with the weights, and how the weights change with the strongest of them."""
    shown = drivers.strongest(SHOWN_DRIVERS)
    count = len(drivers.recallers)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 0.62 * count + 2.6 * len(drivers.groups), 0.27 * len(shown) + 1.3))
        ratios = [0.62 * count + 0.4, *([2.4] * len(drivers.groups))]
        left, *others = figure.subplots(1, len(ratios), width_ratios=ratios)
        rho = np.nan_to_num(drivers.correlation[shown])
        draw_cells(left, np.abs(rho), [[signed(value, 2) for value in row] for row in rho], rho < 0)
        left.set_xticks(range(count), drivers.recallers, rotation=30 if count > 3 else 0)
        left.set_yticks(range(len(shown)), [drivers.numbers[row] for row in shown])
        left.set_title("goes with the weight of")
        for axis, (number, groups) in zip(others, drivers.groups.items(), strict=True):
            for place, (recaller, colour) in enumerate(zip(drivers.recallers, _cycle(count), strict=True)):
                weights = [group.weights[place] for group in groups]
                axis.plot(range(len(groups)), weights, "o-", color=colour, markersize=4, label=recaller)
            axis.set_xticks(range(len(groups)), [f"{_short(group.low)}\nto {_short(group.high)}" for group in groups])
            axis.set_xlabel(number)
            axis.set_title("mean weight")
            axis.set_ylim(bottom=0)
            axis.grid(axis="y")
        others[0].legend()
        figure.tight_layout()
    return figure


def curves_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draws training curves, one panel each; frames have the columns `step` and `value`."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns, 2.0 * rows))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, frame) in zip(panels, curves.items(), strict=False):
            _line(axis, frame, COLOURS["learned"])
            axis.set_title(name)
            axis.set_xlabel("step")
        for axis in panels[len(curves) :]:
            axis.set_visible(False)
        figure.tight_layout()
    return figure


def recaller_curves_figure(curves: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Draws the curves of all recallers, one panel for each curve, one line for each recaller.

    Args:
        curves: Title of a curve -> recaller -> a frame with `step`, the epoch, and `value`.
    """
    names = list(dict.fromkeys(name for lines in curves.values() for name in lines))
    colours = dict(zip(names, _cycle(len(names)), strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * len(curves), 2.4))
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axis, (title, lines) in zip(panels, curves.items(), strict=True):
            for name, frame in lines.items():
                _line(axis, frame, colours[name], name)
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.legend()
        figure.tight_layout()
    return figure


def _line(axis: Axes, frame: pd.DataFrame, colour: str, label: str | None = None) -> None:
    marker = "o" if len(frame) <= FEW_POINTS else ""
    axis.plot(frame["step"], frame["value"], color=colour, linewidth=1.4, marker=marker, markersize=3, label=label)
    if len(frame) == 1:
        axis.set_xlim(frame["step"].iloc[0] - 1, frame["step"].iloc[0] + 1)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.grid()


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _cycle(count: int) -> list[str]:
    return [PALETTE[number % len(PALETTE)] for number in range(count)]
