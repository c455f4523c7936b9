"""What the stage that writes a page must not know: where the page comes from, and measured times. Filled in when the page is shown.

A stage is a pure function, and the same run writes the same bytes: there is no id, no time and no command in what it stores. Its
page has an empty place for each, between two marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from softgrpo.evaluation.pages.environment import markdown_cell

PROVENANCE, COSTS = "provenance", "costs"
"""Names of the places."""


def place(name: str, content: str = "") -> str:
    """Returns a place of a page with what is in it before it is filled."""
    return f"<!-- {name} -->\n{content}\n<!-- /{name} -->"


def fill(page: str, name: str, content: str) -> str:
    """Returns a page with one of its places filled; a page without that place is returned as it is."""
    pattern = f"<!-- {name} -->.*?<!-- /{name} -->"
    return re.sub(pattern, lambda _: place(name, content), page, count=1, flags=re.DOTALL)


CODE = frozenset({"run id", "command", "commit"})
"""Facts that people copy."""


@dataclass(frozen=True)
class Provenance:
    """What a page says of the run that it is about.

    Attributes:
        facts: Label to text, in order, such as the id, the date, the command and the commit.
        links: Label to address; only those of http and https are made links, others are shown.
    """

    facts: Mapping[str, str]
    links: Mapping[str, str] = field(default_factory=dict)


def provenance_html(provenance: Provenance) -> str:
    """Returns what the place of an HTML page is filled with."""
    rows = [f"<dt>{escape(label)}</dt><dd>{_shown(label, text)}</dd>" for label, text in provenance.facts.items()]
    rows += [f"<dt>{escape(label)}</dt><dd>{_link(address)}</dd>" for label, address in provenance.links.items()]
    return '<dl class="facts">\n' + "\n".join(rows) + "\n</dl>"


def provenance_markdown(provenance: Provenance) -> str:
    """Returns what the place of a Markdown page is filled with."""
    rows = [f"- {label}: {_quoted(label, text)}" for label, text in provenance.facts.items()]
    return "\n".join(rows + [f"- {label}: <{address}>" for label, address in provenance.links.items()])


def _shown(label: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if label in CODE else escape(text)


def _quoted(label: str, text: str) -> str:
    return f"`{text}`" if label in CODE else markdown_cell(text)


def _link(address: str) -> str:
    text = escape(address)
    return f'<a href="{text}">{text}</a>' if address.startswith(("http://", "https://")) else text
