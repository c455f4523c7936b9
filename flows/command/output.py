"""Tables for people: on a terminal as wide as that is, in a file or a pipe plain lines, and numbers whole in both."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softgrpo.common.text import visible

if TYPE_CHECKING:
    import pandas as pd

    from softgrpo.flows.results.comparison import ComparedRuns

WIDEST = 10_000
LEAST_CHARACTERS = 16
"""What a column of words keeps; the words go on in the next line."""
UNTESTED = ("Δ", "± seeds", "p (Holm)")
"""Columns of a comparison that go where there is no room, behind the metrics; Δ % and its interval stay."""


def print_comparison(
    table: pd.DataFrame,
    k: int,
    reference: str = "the best single recaller",
    everything: str = "the report",
    column: str = "vs_single",
) -> None:
    """Prints a comparison table.

    Args:
        table: See `softgrpo.evaluation.table.Comparison`.
        k: Cut-off that the differences are about.
        reference: What the differences are against.
        everything: What has all columns.
        column: Prefix of the columns of those differences.
    """
    from softgrpo.evaluation.formatting import render_terminal

    rendered = render_terminal(table, k, reference, column)
    names = [str(column.header) for column in rendered.columns]
    metrics = [name for name in names if "@" in name and name != f"NDCG@{k}"]
    print_table(rendered, [*reversed(metrics), *(name for name in UNTESTED if name in names)], everything)


def print_compared(compared: ComparedRuns, output: Path) -> None:
    """Prints several runs side by side: where they differ, their table, where it can be seen, and the verdicts.

    Args:
        compared: The comparison; its page is named where it was written.
        output: Folder whose services would show it.
    """
    from softgrpo.tasks.servers.addresses import make_line

    print_sentences(compared.changes)
    print_comparison(compared.table, compared.k, compared.references[compared.tested], "--json", compared.tested)
    if compared.page is not None:
        print(f"page  {compared.page}")
    print(compared.link or f"{make_line('services', output)} shows the runs side by side")
    print_sentences(compared.verdicts)


def print_table(table: Table, dispensable: Sequence[str] = (), everything: str = "") -> None:
    """Prints a table. Where leaving columns out is not enough, its first column wraps, and then it becomes plain lines.

    Args:
        table: Columns without `no_wrap` may wrap, those of numbers have it.
        dispensable: Columns to leave out on a terminal that is too narrow, the first one first.
        everything: What has all columns, for the line that says which are left out.
    """
    console = Console()
    room = console.width if sys.stdout.isatty() else 0
    left_out = [*_leave_out(table, dispensable, room)] if room else []
    if _least_width(table) > room:
        table.columns[0].no_wrap = False
    if _least_width(table) > room:
        print(*_plain_lines(table), sep="\n")
    else:
        console.print(table)
    if left_out:
        print(f"Too narrow for: {', '.join(left_out)}; {everything} has all columns.")


def print_sentences(sentences: Iterable[str]) -> None:
    """Prints sentences, each on lines of its own; on a terminal they break between words, and what follows is indented."""
    width = Console().width if sys.stdout.isatty() else WIDEST
    for sentence in sentences:
        print(wrapped(sentence, width))


def wrapped(sentence: str, width: int) -> str:
    """Returns a sentence in lines of at most so many characters; `p = 1`, `p ≤ 0.1` and an interval in brackets stay whole.

    Args:
        sentence: The sentence.
        width: Characters of a line.
    """
    whole = re.sub(r" [=≤] |\[[^\]]*\]", lambda match: match[0].replace(" ", "\xa0"), sentence)
    lines = textwrap.fill(whole, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines.replace("\xa0", " ")


def foreign(text: str) -> Text:
    """Returns a text from elsewhere, such as a title, for a table: its brackets are no markup, and it moves no cursor."""
    return Text(visible(text))


def _leave_out(table: Table, dispensable: Sequence[str], width: int) -> Iterator[str]:
    """Takes columns out of a table until it fits, and gives their names."""
    for name in dispensable:
        if _least_width(table) <= width:
            return
        table.columns = [column for column in table.columns if str(column.header) != name]
        yield name


def _least_width(table: Table) -> int:
    """Returns how wide a table is with the columns that may wrap as narrow as they may be."""
    words = [column for column in table.columns if not column.no_wrap]
    longest = [max(cell_len(str(text)) for text in (column.header, *column.cells)) for column in words]
    whole = Console(width=WIDEST).measure(table).maximum
    return whole - sum(max(0, length - LEAST_CHARACTERS) for length in longest)


def _plain_lines(table: Table) -> Iterator[str]:
    """Gives the title, the names of the columns and one line for each row; columns are two spaces or more apart."""
    if table.title:
        yield str(table.title)
    rows = zip(*([column.header, *column.cells] for column in table.columns), strict=True)
    texts = [[str(cell) or "-" for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        yield "  ".join(set_cell_size(text, width) for text, width in zip(row, widths, strict=True)).rstrip()
