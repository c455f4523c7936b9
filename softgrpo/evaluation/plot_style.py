"""What all figures of the report have in common: colours, sizes, and how they are written; the same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
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


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Writes `<name>.png` and `<name>.svg` and returns the path of the second. Figures are drawn without a display."""
    path = folder / f"{name}.svg"
    with mpl.rc_context(STYLE):
        figure.savefig(path.with_suffix(".png"), dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(path, bbox_inches="tight", transparent=True, metadata={"Date": None})
    return path


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
