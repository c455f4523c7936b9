"""What all figures of the report have in common: colours, sizes, and how they are written; the same input gives the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

INK, SOFT, GRID, CELL_INK = "#1f2933", "#61707f", "#e1e5ea", "#fefefe"
"""Text and axes, text beside the point, lines of the grid, text in a dark cell."""
COLOURS = {
    "single": "#9aa5b1",
    "static": "#5b8db8",
    "gate": "#7a9e5f",
    "ranker": "#8a6fb0",
    "learned": "#d1603d",
    "oracle": "#c9cfd6",
}
"""Of each kind of row."""
PALETTE = ("#3b7dd8", "#d98a1f", "#3f9b6c", "#a45bb5", "#c4504b", "#2b9aa6", "#8f8436", "#7a6ff0")
"""Of recallers, in pool order; each can be told from a white page and from a dark one."""
FONTS = ("DejaVu Sans", "sans-serif")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "softgrpo",
    "svg.fonttype": "none",  # text stays text
    "font.family": FONTS,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
NARROW_INCHES = 3.6
"""Width of a figure on the screen of a phone."""
PANEL_SHARE, PANEL_ROOM = 0.85, 0.85
"""On such a screen: height of a panel as a share of what it is elsewhere, and inches for what is around it."""
NARROW_ROW, NARROW_COLUMN, NARROW_TITLE = 27, 8, 32
"""Characters in a line of a label beside a panel, of one below it and of a title there."""


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Writes `<name>.png`, `<name>.svg` and the form for phones (see `narrow_path`), and returns the path of the second.

    Figures are drawn without a display. The figure is left in the form for phones.
    """
    path = folder / f"{name}.svg"
    with mpl.rc_context(STYLE):
        figure.savefig(path.with_suffix(".png"), dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(path, bbox_inches="tight", transparent=True, metadata={"Date": None})
        stack_panels(figure)
        figure.savefig(narrow_path(path), bbox_inches="tight", transparent=True, metadata={"Date": None})
    return path


def narrow_path(path: Path) -> Path:
    """Returns where the form for phones of an SVG file is."""
    return path.with_name(f"{path.stem}-narrow.svg")


def stack_panels(figure: Figure) -> None:
    """Puts the panels of a figure one below another, in the width of a phone's screen; each gets all of its labels."""
    for axis in [axis for axis in figure.axes if not axis.get_visible()]:
        axis.remove()
    heights = [PANEL_SHARE * axis.get_position().height * figure.get_figheight() for axis in figure.axes]
    grid = GridSpec(len(heights), 1, figure, height_ratios=heights)
    figure.set_size_inches(NARROW_INCHES, sum(heights) + PANEL_ROOM * len(heights))
    for row, axis in enumerate(figure.axes):
        axis.set_subplotspec(grid[row, 0])
        axis.tick_params(labelleft=True, labelbottom=True)  # panels that shared them beside each other left them out
        _wrap_labels(axis.yaxis, NARROW_ROW)
        _wrap_labels(axis.xaxis, NARROW_COLUMN)
        axis.set_title(textwrap.fill(axis.get_title(loc="left"), NARROW_TITLE))
    figure.tight_layout()


def _wrap_labels(axis: Axis, characters: int) -> None:
    """Breaks the labels of an axis between words; those that are numbers of a scale stay as they are."""
    if isinstance(axis.get_major_locator(), FixedLocator):
        texts = [label.get_text().splitlines() for label in axis.get_ticklabels()]
        wrap = partial(textwrap.fill, width=characters, break_long_words=False)
        axis.set_ticklabels(["\n".join(map(wrap, lines)) for lines in texts])


def label_bar(axis: Axes, end: float, row: int, text: str) -> None:
    """Writes a text behind the end of a horizontal bar."""
    axis.annotate(text, (end, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)


def draw_cells(
    axis: Axes, strength: NDArray[np.float64], texts: Sequence[Sequence[str]], negative: NDArray[np.bool_] | None = None
) -> None:
    """Draws a matrix as coloured cells with a text in each, the first row on top.

    Args:
        axis: Where; its labels are left to the caller.
        strength: (R, C) in [0, 1]: how strong the colour of a cell is.
        texts: Of the R x C cells.
        negative: (R, C) cells in the other colour.
    """
    rows, columns = strength.shape
    for row, column in np.ndindex(rows, columns):
        kind = "static" if negative is not None and negative[row, column] else "learned"
        alpha = 0.06 + 0.84 * float(strength[row, column])
        place = (column - 0.5, row - 0.5)
        axis.add_patch(Rectangle(place, 1, 1, facecolor=COLOURS[kind], alpha=alpha, linewidth=0))
        ink = CELL_INK if alpha > 0.75 else INK
        axis.text(column, row, texts[row][column], ha="center", va="center", color=ink, fontsize=8)
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5, -0.5)
    axis.tick_params(length=0)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
