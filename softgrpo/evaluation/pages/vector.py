"""Figures as part of a page: inline SVG whose text is text, in the colours of the page's theme, light or dark."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from softgrpo.evaluation.pages.frame import framed
from softgrpo.evaluation.plot_style import CELL_INK, COLOURS, FONTS, GRID, INK, SOFT, narrow_path

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
THEME = {INK: "ink", SOFT: "soft", GRID: "line", CELL_INK: "cell-ink", "#000000": "ink"} | {
    colour: f"kind-{kind}" for kind, colour in COLOURS.items()
}
"""Colour in a file -> name of the page's variable for it; other colours can be read on light and dark pages."""
PIXELS_PER_POINT = 4 / 3
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT_LIST = re.compile(r"'" + FONTS[0] + r"'[^;]*")


def inline_svg(path: Path, title: str) -> str:
    """Returns a figure as part of an HTML page, in both of its forms, see `softgrpo.evaluation.pages.frame.framed`.

    Args:
        path: SVG file that `softgrpo.evaluation.plot_style.save` returned.
        title: What is said to readers who do not see the figure.
    """
    return framed(*_element(path, title), *_element(narrow_path(path), title))


def _element(path: Path, title: str) -> tuple[str, float]:
    """Returns an SVG file of matplotlib's as an element, and its natural width in pixels.

    The name of the file goes before every id, so that those of several figures on one page differ.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith("}metadata") or child.tag == f"{{{SVG}}}style"]:
            parent.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, _rewritten(name, value, path.stem))
    for name in ("height", "version"):
        root.attrib.pop(name, None)
    width = float(root.attrib.pop("width").removesuffix("pt")) * PIXELS_PER_POINT
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode"), width


def _rewritten(name: str, value: str, prefix: str) -> str:
    """Returns an attribute's value with the page's colours, and the prefix before ids."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == f"{{{XLINK}}}href":
        return value.replace("#", f"#{prefix}-", 1)
    if name in ("style", "clip-path", "fill", "stroke"):
        coloured = _COLOUR.sub(lambda found: _themed(found.group()), value)
        return _FONT_LIST.sub("system-ui, sans-serif", coloured).replace("url(#", f"url(#{prefix}-")
    return value


def _themed(colour: str) -> str:
    return f"var(--{THEME[colour]})" if colour in THEME else colour
