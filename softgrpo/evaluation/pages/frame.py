"""What is around a figure of a page. It needs no matplotlib, see `softgrpo.evaluation.pages.costs`."""

from __future__ import annotations


def framed(svg: str, width: float) -> str:
    """Returns an SVG element in a frame that scrolls sideways, and says so, on a screen too narrow for it to be read.

    Args:
        svg: The element, without a width of its own.
        width: Its natural width in pixels.
    """
    hint = '<p class="hint" aria-hidden="true">Scroll sideways to see all of this figure ⟷</p>'
    return f'<div class="frame" style="--width: {width:.0f}px"><div class="wide">{svg}</div>{hint}</div>'
