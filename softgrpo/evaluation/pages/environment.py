"""How templates of pages are filled: where they are, how numbers are written, how text from data is made safe."""

from __future__ import annotations

import math
from typing import Any

import jinja2

from softgrpo.common.text import visible
from softgrpo.evaluation.formatting import fixed, heading, p_value, percent, share, signed, signed_interval


def template(name: str) -> jinja2.Template:
    """Returns a template of this folder; in those of HTML every text is escaped that is not marked as safe."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("softgrpo.evaluation.pages", "."),
        autoescape=".html" in name,
        undefined=jinja2.StrictUndefined,
        finalize=readable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "p": p_value,
        "heading": heading,
        "cell": markdown_cell,
        "signed": signed,
        "interval": signed_interval,
        "fixed": fixed,
        "share": share,
    }
    environment.tests["nan"] = math.isnan
    return environment.get_template(name)


def readable(value: Any) -> Any:
    """Returns what a template shows of a value: text without invisible characters; HTML that is escaped already stays HTML."""
    return type(value)(visible(value, kept="\n")) if isinstance(value, str) else value


def markdown_cell(text: str) -> str:
    """Titles come from data files: keep them from acting as Markdown or HTML."""
    text = visible(text, kept="\n")
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in escaped)
