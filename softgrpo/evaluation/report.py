"""The report of one run: Markdown and a self-contained HTML page with figures."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from softgrpo.common.artifacts import FIGURES, REPORT_PAGE, REPORT_TEXT
from softgrpo.config import TABLE_KS
from softgrpo.evaluation.figures import Drawn, draw_figures
from softgrpo.evaluation.formatting import least_p, table_rows, verdict
from softgrpo.evaluation.glossary import beyond_meanings, column_meanings, row_meanings
from softgrpo.evaluation.notes import single_rows_note, without_places_note
from softgrpo.evaluation.pages.costs import empty_html, empty_markdown
from softgrpo.evaluation.pages.environment import template
from softgrpo.evaluation.pages.provenance import COSTS, PROVENANCE, place
from softgrpo.evaluation.pages.vector import inline_svg
from softgrpo.evaluation.report_content import Report
from softgrpo.evaluation.summary import Summary
from softgrpo.policy.shift import LARGE_SHIFT

PROTOCOLS = {
    "ratio": "each user's sequence cut in time order into recaller, policy, validation and test parts",
    "leave_last": "each user's last item test, the one before validation, the one before that policy",
    "global_time": "the same three points in time for all users",
}


def write_report(report: Report, folder: Path) -> None:
    """Writes `report.html` (figures embedded), `report.md` and its `figures/*.png`, `figures/*.svg`."""
    figures = folder / FIGURES
    figures.mkdir(parents=True, exist_ok=True)
    drawn = draw_figures(report, figures)
    (folder / REPORT_TEXT).write_text(render_markdown(report, drawn, folder), encoding="utf-8")
    (folder / REPORT_PAGE).write_text(render_html(report, drawn), encoding="utf-8")


def render_markdown(report: Report, drawn: Sequence[Drawn], folder: Path) -> str:
    """Returns the report as Markdown, with links to the figures from a folder."""
    links = [(each, each.path and each.path.with_suffix(".png").relative_to(folder).as_posix()) for each in drawn]
    return template("report.md.j2").render(_content(report), figures=links, without_costs=empty_markdown())


def render_html(report: Report, drawn: Sequence[Drawn]) -> str:
    """Returns the report as one HTML page, text escaped and figures embedded."""
    embedded = [(each, each.path and inline_svg(each.path, each.title)) for each in drawn]
    return template("report.html.j2").render(_content(report), figures=embedded, without_costs=empty_html())


def summarise(report: Report) -> Summary:
    """Returns the result of a run in a few sentences."""
    comparison, k = report.comparison, report.config.fusion.k
    least = least_p(comparison.table, report.config.evaluation.bootstrap)
    focus = next(row for row in table_rows(comparison.table) if row["method"] == report.focus)
    verdicts = (
        verdict(focus, "vs_single", f"the best single recaller ({comparison.best_single})", k, least),
        verdict(focus, "vs_static", "the best static mixture", k, least),
    )
    chosen, references = report.chosen, (report.focus, comparison.best_static)
    best, sentence = (chosen.best, chosen.sentence(references)) if chosen else ("", "")
    return Summary(
        k, report.focus, comparison.best_single, comparison.best_static, verdicts, report.learnt, best, sentence
    )


def _on_valid(report: Report) -> dict[str, float]:
    """Returns NDCG on validation windows by the key of each row; nan where it is not known."""
    methods = report.chosen.methods if report.chosen else ()
    known = {each.key: each.valid_ndcg for each in methods}
    return {
        method.key: nan if (ndcg := known.get(method.key)) is None else ndcg for method in report.comparison.methods
    }


def _content(report: Report) -> dict[str, Any]:
    config, comparison = report.config, report.comparison
    k = config.fusion.k
    rows = table_rows(comparison.table)
    users = comparison.measured.num_users
    return {
        "config": config,
        "k": k,
        "rows": rows,
        "metrics": [name for name in rows[0] if name.startswith(("ndcg@", "recall@", "hit@", "mrr"))],
        "main": [f"ndcg@{cutoff}" for cutoff in sorted({k, *TABLE_KS}, key=lambda cutoff: (cutoff != k, cutoff))]
        + [f"recall@{cutoff}" for cutoff in TABLE_KS],
        "sentences": summarise(report).sentences,
        "head": {"seed": str(config.seed), "test users": f"{users:,}"} | dict(report.head),
        "chosen": (comparison.best_single, comparison.best_static),
        "best": report.chosen and report.chosen.best,
        "on_valid": _on_valid(report),
        "single_rows_note": single_rows_note(report.merge, comparison.methods),
        "without_places_note": without_places_note(comparison.methods),
        "place": place,
        "provenance": PROVENANCE,
        "costs": COSTS,
        "row_meanings": row_meanings(comparison.methods, comparison.best_single),
        "column_meanings": column_meanings(k, config.evaluation.confidence, config.evaluation.bootstrap),
        "merge": report.merge,
        "merges": report.merges,
        "beyond": None if report.beyond is None else table_rows(report.beyond),
        "beyond_meanings": {} if report.beyond is None else beyond_meanings(k),
        "static": report.static,
        "gates": report.gates,
        "shifts": report.shifts,
        "large_shift": LARGE_SHIFT,
        "protocol": PROTOCOLS[config.split.method],
        "facts": dict(report.facts),
        "cases": report.cases,
        "focus": comparison.method(report.focus).label,
        "recallers": config.recall.recallers,
    }
