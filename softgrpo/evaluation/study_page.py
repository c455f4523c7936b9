"""A study of `tune` on one HTML page: the best settings, how good each trial was, and which settings mattered.

It imports no Optuna. Legend: T trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from softgrpo.evaluation.formatting import table_rows
from softgrpo.evaluation.pages.environment import template
from softgrpo.evaluation.pages.vector import inline_svg
from softgrpo.evaluation.plot_style import COLOURS, INK, STYLE, save

COMPLETE = "complete"
PANELS = 3
"""Of the figure, beside each other."""
LOGARITHMIC = 10.0
"""A setting whose largest value is so many times its smallest one has a logarithmic axis."""


@dataclass(frozen=True)
class StudyPage:
    """What the page tells.

    Attributes:
        title: Heading.
        sentences: What the study showed.
        trials: (T) rows with the columns `trial`, `state`, `validation_ndcg` (NaN unless complete), one for each setting by its
            dotted path, and `reason`; the first row is what the search started from.
        best: The best settings by dotted path.
        k: Cut-off of the NDCG.
        command: The command that runs the whole pipeline with the best settings.
        facts: Label to text, shown in order.
        links: Label -> address.
    """

    title: str
    sentences: tuple[str, ...]
    trials: pd.DataFrame
    best: Mapping[str, float]
    k: int
    command: str
    facts: Mapping[str, str]
    links: Mapping[str, str]

    @property
    def complete(self) -> pd.DataFrame:
        """The trials that came to their end."""
        return self.trials[self.trials["state"] == COMPLETE]


def render_study(page: StudyPage) -> str:
    """Returns the page, which needs no other file."""
    figure = None
    if len(page.complete) > 1:
        with TemporaryDirectory() as folder:
            figure = inline_svg(save(study_figure(page), Path(folder), "trials"), "Trials of the study")
    rows = table_rows(page.trials)
    best = max(table_rows(page.complete), key=lambda row: (row["validation_ndcg"], -row["trial"]))
    content = {
        "page": page,
        "rows": rows,
        "start": rows[0],
        "best_trial": best["trial"],
        "figure": figure,
        "names": {path: short_name(path) for path in page.best},
    }
    return template("study.html.j2").render(content)


def short_name(path: str) -> str:
    """Returns a setting's name without the section that it is in, in words."""
    return path.rpartition(".")[2].replace("_", " ")


def study_figure(page: StudyPage) -> Figure:
    """Draws the validation NDCG of every complete trial, in the order of the trials and over each setting."""
    complete = page.complete
    rows = math.ceil((1 + len(page.best)) / PANELS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * PANELS, 2.2 * rows))
        first, *others = figure.subplots(rows, PANELS, squeeze=False, sharey=True).ravel()
        first.step(
            complete["trial"],
            complete["validation_ndcg"].cummax(),
            where="post",
            color=INK,
            linewidth=1,
            label="best yet",
        )
        _points(first, complete, "trial", page.best)
        first.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        first.set_title(f"validation NDCG@{page.k}")
        first.legend()
        for axis, path in zip(others, page.best, strict=False):
            _points(axis, complete, path, page.best)
            _scale(axis, complete[path])
        for axis in others[len(page.best) :]:
            axis.set_visible(False)
        figure.tight_layout()
    return figure


def _scale(axis: Axes, values: pd.Series[float]) -> None:
    """Makes the horizontal axis logarithmic where values are far apart, with few labels."""
    ratio = values.max() / values.min() if values.min() > 0 else 1.0
    if ratio < LOGARITHMIC:
        return
    axis.set_xscale("log")
    subs = (1.0,) if ratio >= LOGARITHMIC**2 else (1.0, 3.0)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _points(axis: Axes, complete: pd.DataFrame, column: str, best: Mapping[str, float]) -> None:
    """Draws one point for each trial, that of the best settings in another colour."""
    chosen = np.logical_and.reduce([complete[path] == value for path, value in best.items()])
    axis.scatter(
        complete[column],
        complete["validation_ndcg"],
        color=[COLOURS["learned" if each else "single"] for each in chosen],
        edgecolors=INK,
        linewidths=0.5,
        s=26,
        zorder=3,
    )
    axis.set_xlabel(short_name(column))
    axis.grid()
