"""What is around a figure of a page. It needs no matplotlib, see `softgrpo.evaluation.pages.costs`."""

from __future__ import annotations


def framed(wide: str, width: float, narrow: str, narrow_width: float) -> str:
    """Returns a figure in both of its forms; the page shows the one that fits the screen.

    Args:
        wide: SVG element without a width of its own, for screens of desks.
        width: Its natural width in pixels.
        narrow: The same figure for screens of phones, likewise.
        narrow_width: Its natural width in pixels.
    """
    return (
        f'<div class="on-wide">{_frame(wide, width)}</div><div class="on-narrow">{_frame(narrow, narrow_width)}</div>'
    )


def _frame(svg: str, width: float) -> str:
    """Returns an SVG element that scrolls sideways, and says so, on a screen too narrow for it to be read."""
    hint = '<p class="hint" aria-hidden="true">Scroll sideways to see all of this figure ⟷</p>'
    return f'<div class="frame" style="--width: {width:.0f}px">{hint}<div class="wide">{svg}</div></div>'
