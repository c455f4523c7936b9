"""What a finished run shows to people: links, and the comparison table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from flows.finished import costs_of_stages
from flows.pipeline import RecordedRun
from flows.report_page import RunFacts, complete, write_page
from tasks.addresses import without_password
from tasks.groups import publish_text
from tasks.lineage import commit_of, read_run, started_at
from tasks.stage import Progress
from tasks.store import MODEL_STAGES


def publish_page(progress: Progress, output: Path) -> Path:
    """Writes the report of a run that reached the stage `test`, with its id, date and command on it, here and to MLflow.

    Args:
        progress: The run.
        output: Folder of all that is written.

    Returns:
        The path of the HTML page.
    """
    tracking, folder = progress.store.runs.tracking, progress.folders()["test"]
    run = read_run(progress.store, progress.parent_run)
    link = tracking.run_link(progress.parent_run)
    stages = {name: reference["run_id"] for name, reference in progress.references.items()}
    costs = costs_of_stages(progress.store, stages)
    facts = RunFacts(
        progress.config, started_at(run), progress.parent_run, str(run.info.run_name), commit_of(run), link, costs
    )
    for name, text in complete(folder, facts).items():
        publish_text(progress.store.runs, progress.parent_run, text, name)
    return write_page(folder, output, facts)


def recorded(progress: Progress, table: pd.DataFrame | None, page: Path | None) -> RecordedRun:
    """Returns what a finished run gives back.

    Args:
        progress: The run.
        table: See `RunResult.table`.
        page: Its report, None before the stage `test`.
    """
    return RecordedRun(
        table,
        progress.folders(),
        progress.reused(),
        links(progress, page),
        run_id=progress.parent_run,
        tracking=without_password(progress.store.runs.tracking.uri),
    )


def links(progress: Progress, page: Path | None) -> dict[str, str]:
    """Returns where to look further, label to address or path: the MLflow run, the report, the models."""
    folders = progress.folders()
    found = {"MLflow run": progress.store.runs.tracking.run_link(progress.parent_run)}
    if page is not None:
        found["report"] = str(page)
    return found | {f"{name} model": str(folders[name]) for name in sorted(MODEL_STAGES & set(folders), reverse=True)}


def _cell(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def table_markdown(table: pd.DataFrame) -> str:
    """Returns a table in Markdown; numbers have four decimals."""
    rows = [[str(name) for name in table.columns], ["---"] * table.shape[1]]
    rows += [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary_markdown(table: pd.DataFrame | None, found: Mapping[str, str], reused: tuple[str, ...]) -> str:
    """Returns the page that Prefect shows with a run."""
    parts = [table_markdown(table)] if table is not None else []
    parts.append("\n".join(f"- {label}: {place}" for label, place in found.items()))
    parts.append(f"Reused stages: {', '.join(reused) or 'none'}.")
    return "\n\n".join(parts)
