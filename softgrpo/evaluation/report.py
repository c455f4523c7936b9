"""The report of one run: Markdown and a self-contained HTML page with figures."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.config import TABLE_KS, ExperimentConfig
from softgrpo.evaluation import plots
from softgrpo.evaluation.cases import Case, gains
from softgrpo.evaluation.static import StaticMixture
from softgrpo.evaluation.summary import Summary
from softgrpo.evaluation.table import Comparison
from softgrpo.evaluation.words import heading, least_p, p_value, percent, table_rows, verdict
from softgrpo.text import visible

PROTOCOLS = {
    "ratio": "each user's sequence cut in time order into recaller, policy, validation and test parts",
    "leave_last": "each user's last item test, the one before validation, the one before that policy",
    "global_time": "the same three points in time for all users",
}


@dataclass(frozen=True)
class Choice:
    """What validation windows chose for a gate.

    Attributes:
        label: Of the row.
        choice: In words.
        valid_ndcg: NDCG@`fusion.k` there.
    """

    label: str
    choice: str
    valid_ndcg: float


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        config: Of the run.
        comparison: The result.
        static: The search for the best static mixture.
        gates: The rows learned without the language model, as `Choice`s.
        facts: More on data and run, label to value, shown in order (see `softgrpo.evaluation.cases.data_facts`).
        focus: Key of the method whose weights, cases and gains are shown, e.g. `grpo_multi`.
        learnt: What training changed, see `softgrpo.evaluation.learnt`; "" where an earlier version stored the report.
        history: (W,) items in the history of each test window.
        curves: Training curves, name to a frame with `step` and `value`; may be empty.
        confusion: Of the SFT policy on validation windows, from `softgrpo.evaluation.choices.confusion_table`.
        cases: Of the focus against the best single recaller.
    """

    config: ExperimentConfig
    comparison: Comparison
    static: StaticMixture
    gates: tuple[Choice, ...]
    facts: Mapping[str, str]
    focus: str
    learnt: str
    history: NDArray[np.integer]
    curves: Mapping[str, pd.DataFrame]
    confusion: pd.DataFrame
    cases: tuple[Case, ...]


def write_report(report: Report, folder: Path) -> None:
    """Writes `report.html` (figures embedded), `report.md` and its `figures/*.png`, `figures/*.svg`."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    paths = draw_figures(report, figures)
    links = {name: path.with_suffix(".png").relative_to(folder).as_posix() for name, path in paths.items()}
    (folder / "report.md").write_text(render_markdown(report, links), encoding="utf-8")
    (folder / "report.html").write_text(render_html(report, paths), encoding="utf-8")


def draw_figures(report: Report, folder: Path) -> dict[str, Path]:
    """Draws all figures into a folder and returns the SVG file of each title, in the order of the report."""
    config, comparison = report.config, report.comparison
    method = comparison.method(report.focus)
    references = {"the best single recaller": comparison.best_single, "the best static mixture": comparison.best_static}
    by_reference = {
        name: gains(comparison, report.focus, key, f"ndcg@{config.fusion.k}") for name, key in references.items()
    }
    learned = {
        row.label: row.weights.numpy()
        for row in comparison.methods
        if row.kind == "gate" or (row.kind == "learned" and row.key.endswith("_multi"))
    }
    drawn = {"Comparison": ("comparison", plots.comparison_figure(comparison.table, config.fusion.k))}
    if learned:
        drawn["Weights"] = ("weights", plots.weights_figure(learned, config.recall.recallers))
    if report.curves:
        drawn["Training"] = ("training", plots.curves_figure(report.curves))
    if report.confusion.to_numpy().any():
        drawn["Choices of SFT on validation windows"] = ("confusion", plots.confusion_figure(report.confusion))
    by_history = plots.history_figure(by_reference, report.history, method.label, config.evaluation, config.seed)
    drawn["Gain by history length"] = ("history", by_history)
    return {title: plots.save(figure, folder, name)[1] for title, (name, figure) in drawn.items()}


def render_markdown(report: Report, figures: Mapping[str, str]) -> str:
    """Returns the report as Markdown; `figures` maps titles to links."""
    return _environment(False).get_template("report.md.j2").render(_content(report), figures=figures)


def render_html(report: Report, figures: Mapping[str, Path]) -> str:
    """Returns the report as one HTML page, text escaped; `figures` maps titles to SVG files, which are embedded."""
    embedded = {title: base64.b64encode(path.read_bytes()).decode() for title, path in figures.items()}
    return _environment(True).get_template("report.html.j2").render(_content(report), figures=embedded)


def summarise(report: Report) -> Summary:
    """Returns the result of a run in a few sentences."""
    comparison, k = report.comparison, report.config.fusion.k
    least = least_p(comparison.table, report.config.evaluation.bootstrap)
    focus = next(row for row in table_rows(comparison.table) if row["method"] == report.focus)
    verdicts = (
        verdict(focus, "vs_single", f"the best single recaller ({comparison.best_single})", k, least),
        verdict(focus, "vs_static", "the best static mixture", k, least),
    )
    return Summary(k, report.focus, comparison.best_single, comparison.best_static, verdicts, report.learnt)


def _content(report: Report) -> dict[str, Any]:
    config, comparison = report.config, report.comparison
    k = config.fusion.k
    rows = table_rows(comparison.table)
    users = comparison.windows["user"].nunique()
    return {
        "config": config,
        "k": k,
        "rows": rows,
        "metrics": [name for name in rows[0] if name.startswith(("ndcg@", "recall@", "hit@", "mrr"))],
        "main": [f"{metric}@{cutoff}" for metric in ("ndcg", "recall") for cutoff in sorted({k, *TABLE_KS})],
        "sentences": summarise(report).sentences,
        "static": report.static,
        "gates": report.gates,
        "protocol": PROTOCOLS[config.split.method],
        "facts": {"test users evaluated": f"{users:,}", "seed": str(config.seed)} | dict(report.facts),
        "cases": report.cases,
        "focus": comparison.method(report.focus).label,
        "recallers": config.recall.recallers,
    }


def _environment(autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("softgrpo.evaluation", "."),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters |= {"percent": percent, "p": p_value, "heading": heading, "cell": _markdown_cell}
    environment.tests["nan"] = math.isnan
    return environment


def _shown(value: object) -> object:
    """Returns a value of the templates as people see it; HTML that is escaped already stays HTML."""
    return type(value)(visible(value, kept="\n")) if isinstance(value, str) else value


def _markdown_cell(text: str) -> str:
    """Titles come from data files: keep them from acting as Markdown or HTML."""
    text = visible(text, kept="\n")
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in escaped)
