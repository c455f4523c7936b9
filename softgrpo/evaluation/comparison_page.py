"""Several runs on one HTML page: what they differ in, what that changed, all rows, one figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from softgrpo.config import TABLE_KS
from softgrpo.evaluation.formatting import table_rows
from softgrpo.evaluation.pages.environment import template
from softgrpo.evaluation.pages.vector import inline_svg
from softgrpo.evaluation.plot_style import save
from softgrpo.evaluation.plots import comparison_figure
from softgrpo.evaluation.summary import FOCUS

FEW_ROWS = 24
MAIN_ROWS = ("static", "sft_multi", FOCUS)
"""Rows of every run that the figure shows where there are too many for all; the best single recaller is one more."""


@dataclass(frozen=True)
class ComparisonPage:
    """What the page tells.

    Attributes:
        title: Heading.
        runs: Label of each run in the table -> what people call it.
        differences: Setting -> label of the run -> value, of the settings in which the runs differ.
        verdicts: What the comparison shows, one sentence each.
        table: See `softgrpo.evaluation.across_runs.compare_runs` or `softgrpo.evaluation.across_runs.average_seeds`.
        k: Cut-off of the NDCG of the differences.
        references: Prefix of the columns of differences -> what people call the reference.
        note: What a reader of the table must know.
        links: Label -> address.
    """

    title: str
    runs: Mapping[str, str]
    differences: Mapping[str, Mapping[str, str]]
    verdicts: tuple[str, ...]
    table: pd.DataFrame
    k: int
    references: Mapping[str, str]
    note: str
    links: Mapping[str, str]

    @property
    def first_line(self) -> str:
        """Names the settings in which the runs differ."""
        names = list(self.differences)
        if not names:
            return f"These {len(self.runs)} runs differ in no setting that changes a number."
        joined = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return f"These {len(self.runs)} runs differ in {joined}."


def render_comparison(page: ComparisonPage) -> str:
    """Returns the page, which needs no other file."""
    k = page.k
    rows = table_rows(page.table)
    ndcgs = sorted({k, *TABLE_KS}, key=lambda cutoff: (cutoff != k, cutoff))
    names = [*(f"ndcg@{cutoff}" for cutoff in ndcgs), *(f"recall@{cutoff}" for cutoff in TABLE_KS)]
    shown = rows_of_figure(page.table)
    with TemporaryDirectory() as folder:
        path = save(comparison_figure(shown, k, page.references), Path(folder), "comparison")
        figure = inline_svg(path, "Comparison")
    content = {
        "page": page,
        "k": k,
        "rows": rows,
        "main": [name for name in names if name in page.table],
        "spread": f"ndcg@{k}_spread" if f"ndcg@{k}_spread" in page.table else None,
        "figure": figure,
        "left_out": len(rows) - len(shown),
    }
    return template("comparison.html.j2").render(content)


def rows_of_figure(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that the figure shows: all of them, or of many the best single recallers and `MAIN_ROWS`."""
    if len(table) <= FEW_ROWS:
        return table
    keys = table["method"].str.rpartition("/")[2]
    return table[keys.isin(MAIN_ROWS) | table["label"].str.endswith("(best single)")].reset_index(drop=True)
