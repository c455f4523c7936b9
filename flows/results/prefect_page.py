"""What Prefect's page of a finished run shows, as Markdown: the verdict, one table of at most eight columns, the figure, links.

The page is about 700 pixels wide where the window has 1280, so it shows the most important results; the report has the rest.
"""

from __future__ import annotations

import base64
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from softgrpo.common.artifacts import FIGURES
from softgrpo.common.text import visible
from softgrpo.evaluation.formatting import percent, signed, table_rows
from softgrpo.evaluation.summary import Summary

FIGURE = Path(FIGURES) / "comparison.png"
"""Where the stage test keeps the figure of its table. It has a white ground, and Prefect's page may be dark."""
MAIN_ROWS = ("static", "sft_multi", "grpo_multi")
"""Keys of the rows that a comparison of several runs shows beside the recallers."""
LONG_LABEL, LINE = 22, 26
"""Characters of a label that leave room for the other columns, and those of one line of a label."""
STAGE_WORDS = {
    "split": "split of the data",
    "embed": "embeddings of item texts",
    "data": "candidates and prompts",
    "check": "check for leaks",
    "gates": "gates and item ranker",
    "sft": "SFT",
    "grpo": "SofT-GRPO",
    "test": "evaluation",
}


def run_page(
    table: pd.DataFrame | None,
    summary: Summary | None,
    figure: Path | None,
    places: Mapping[str, str],
    new: Sequence[str],
    reused: Sequence[str],
) -> str:
    """Returns the page of one pipeline's run.

    Args:
        table: `Comparison.table`; None where the run ended before the stage test.
        summary: The result in words; None where there is none.
        figure: PNG file of the comparison; None where there is none.
        places: Where to look further: what it is -> Markdown that leads there.
        new: Names of the nodes that this run made.
        reused: Names of those that an earlier run had made.
    """
    parts = [verdict_markdown(summary.sentences)] if summary else []
    if table is None:
        parts.append("This run ended before the evaluation, so there is nothing to compare yet.")
    elif summary:
        parts += ["## Comparison on the test windows", comparison_markdown(table, summary), _explanation(summary.k)]
    if figure is not None:
        parts.append(figure_markdown(figure, "NDCG of every method, and its difference to the best single recaller"))
    parts += ["## Where to look further", bullets(f"{label}: {place}" for label, place in places.items())]
    parts += ["## Stages", stages_in_words(new, reused)]
    return "\n\n".join(parts) + "\n"


def verdict_markdown(sentences: Sequence[str]) -> str:
    """Returns sentences as a list, the first one in bold."""
    first, *others = (escape(sentence) for sentence in sentences)
    return bullets([f"**{first}**", *others])


def comparison_markdown(table: pd.DataFrame, summary: Summary) -> str:
    """Returns the table of a comparison with words for headings; the row that the verdict is about is bold."""
    headings = [
        "method",
        f"NDCG<br>@{summary.k}",
        "difference to the<br>best single recaller",
        "p",
        "difference to the<br>best static mixture",
        "p",
    ]
    cells = []
    for row in table_rows(table):
        texts = [
            _label(row["label"]),
            f"{row[f'ndcg@{summary.k}']:.4f}",
            difference(row, "vs_single"),
            _short_p(row, "vs_single"),
            difference(row, "vs_static"),
            _short_p(row, "vs_static"),
        ]
        cells.append([f"**{text}**" if text else "" for text in texts] if row["method"] == summary.focus else texts)
    return markdown_table(headings, cells)


def _label(label: str) -> str:
    """Returns what a row is called; a long name breaks before its bracket and between words, since cells do not wrap."""
    before, bracket, after = label.partition(" (")
    parts = [before, f"({after}"] if bracket and len(label) > LONG_LABEL else [label]
    return "<br>".join(escape(line) for part in parts for line in textwrap.wrap(part, LINE))


def _short_p(row: Mapping[str, Any], reference: str) -> str:
    """Returns the p-value of a row as the verdict has it, a bound rounded up as `≤0.008`, "" where nothing was tested."""
    value = row[f"{reference}_p"]
    if math.isnan(value):
        return ""
    if not row.get(f"{reference}_p_bound", False):
        return f"{value:.2g}"
    scale = 10 ** -math.floor(math.log10(value))
    return f"≤{math.ceil(round(value * scale, 6)) / scale:g}"  # the page is narrow


def _explanation(k: int) -> str:
    return (
        f"Means over users. Differences are in NDCG@{k}, in brackets relative to what they are against; p is corrected "
        "for all tests of the table (Holm), with ≤ it is the smallest that the bootstrap's draws can show. The report has "
        "the other cut-offs and metrics, and all intervals."
    )


def difference(row: Mapping[str, Any], reference: str) -> str:
    """Returns the difference of a row to a reference as `+0.0123 (+1.5%)`, "" where a row would be compared with itself."""
    if math.isnan(row[reference]):
        return ""
    relative = percent(row[f"{reference}_relative"])
    return f"{signed(row[reference])} ({relative})" if relative else signed(row[reference])


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown; the first column is left-aligned, all others are numbers."""
    rules = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rules, *rows))


def figure_markdown(path: Path, text: str) -> str:
    """Returns an image that holds the whole file: the page shows it wherever it is read, MLflow running or not.

    Args:
        path: A PNG file.
        text: What it shows, for those who cannot see it.
    """
    return f"![{text}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"


def stages_in_words(new: Sequence[str], reused: Sequence[str]) -> str:
    """Says which stages this run made, and which were made before."""
    if not new:
        return "All stages were reused from earlier runs; this run trained nothing."
    if not reused:
        return "This run made all of its stages itself."
    return bullets([f"Made by this run: {_in_words(new)}.", f"Reused from earlier runs: {_in_words(reused)}."])


def _in_words(nodes: Sequence[str]) -> str:
    return ", ".join(STAGE_WORDS.get(node, node.replace("recall-", "recaller ", 1)) for node in nodes)


def bullets(lines: Iterable[str]) -> str:
    """Returns lines as a list."""
    return "\n".join(f"- {line}" for line in lines)


def escape(text: str) -> str:
    """Returns a text that Markdown shows as it is, also in a cell of a table, without invisible characters."""
    text = visible(text)
    for mark in "\\|*_`[]<":
        text = text.replace(mark, f"\\{mark}")
    return text


def group_page(verdicts: Sequence[str], differences: Sequence[str], table: pd.DataFrame, k: int, place: str) -> str:
    """Returns the page of a comparison of several runs.

    Args:
        verdicts: One sentence for each run after the first.
        differences: What differs between the runs, one sentence for each run after the first.
        table: See `softgrpo.evaluation.across_runs.compare_runs`; the page shows what each run is judged by, see `MAIN_ROWS`.
        k: Cut-off of the NDCG.
        place: Markdown that leads to the page that compares the runs.
    """
    headings = [
        "method",
        f"NDCG<br>@{k}",
        "difference to the<br>best single recaller<br>of the first run",
        "difference to the<br>SofT-GRPO multi<br>of the first run",
        "p",
    ]
    main = table[table["method"].str.endswith(tuple(f"/{key}" for key in MAIN_ROWS)) | (table["kind"] == "single")]
    cells = [
        [
            _label(row["label"]),
            f"{row[f'ndcg@{k}']:.4f}",
            difference(row, "vs_single"),
            difference(row, "vs_first"),
            _short_p(row, "vs_first"),
        ]
        for row in table_rows(main)
    ]
    parts = [
        verdict_markdown(verdicts),
        bullets(map(escape, differences)),
        "## Comparison on the test windows",
        markdown_table(headings, cells),
        "The other rows of each run are on its own page, and all of them in `comparison.parquet` of the MLflow run.",
        "## Where to look further",
        bullets([f"the runs side by side: {place}"]),
    ]
    return "\n\n".join(parts) + "\n"
