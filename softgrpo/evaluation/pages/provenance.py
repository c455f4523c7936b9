"""Where a page comes from: what the stage that writes it must not know, filled in when the page is shown.

A stage is a pure function, and the same run writes the same bytes: there is no id, no time and no command in what it stores. Its
page has an empty place for them, between two marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from softgrpo.evaluation.pages.environment import markdown_cell

BEGIN, END = "<!-- provenance -->", "<!-- /provenance -->"
_PLACE = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)


@dataclass(frozen=True)
class Provenance:
    """What a page says of the run that it is about.

    Attributes:
        facts: Label to text, in order, such as the id, the date, the command and the commit.
        links: Label to address; only those of http and https are made links, others are shown.
    """

    facts: Mapping[str, str]
    links: Mapping[str, str] = field(default_factory=dict)


def complete_html(page: str, provenance: Provenance) -> str:
    """Returns an HTML page with its place filled; a page without one is returned as it is."""
    rows = [f"<dt>{escape(label)}</dt><dd>{_shown(label, text)}</dd>" for label, text in provenance.facts.items()]
    rows += [f"<dt>{escape(label)}</dt><dd>{_link(address)}</dd>" for label, address in provenance.links.items()]
    filled = f'{BEGIN}\n<dl class="facts">\n' + "\n".join(rows) + f"\n</dl>\n{END}"
    return _PLACE.sub(lambda _: filled, page, count=1)


def complete_markdown(page: str, provenance: Provenance) -> str:
    """Returns a Markdown page with its place filled."""
    rows = [f"- {label}: {_quoted(label, text)}" for label, text in provenance.facts.items()]
    rows += [f"- {label}: <{address}>" for label, address in provenance.links.items()]
    filled = f"{BEGIN}\n" + "\n".join(rows) + f"\n{END}"
    return _PLACE.sub(lambda _: filled, page, count=1)


def _shown(label: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if label in CODE else escape(text)


def _quoted(label: str, text: str) -> str:
    return f"`{text}`" if label in CODE else markdown_cell(text)


def _link(address: str) -> str:
    text = escape(address)
    return f'<a href="{text}">{text}</a>' if address.startswith(("http://", "https://")) else text


CODE = frozenset({"run id", "command", "commit"})
"""Facts that people copy."""
