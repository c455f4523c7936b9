"""What a finished run shows to people: links, and the comparison table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from flows.pipeline import RecordedRun
from softgrpo.redaction import without_password
from tasks.stage import Progress
from tasks.store import MODEL_STAGES


def recorded(progress: Progress, table: pd.DataFrame | None) -> RecordedRun:
    """Returns what a finished run gives back."""
    return RecordedRun(
        table,
        progress.folders(),
        progress.reused(),
        links(progress),
        run_id=progress.parent_run,
        tracking=without_password(progress.store.runs.tracking.uri),
    )


def links(progress: Progress) -> dict[str, str]:
    """Returns where to look further, label to address or path: the MLflow run, the report, the models."""
    folders = progress.folders()
    found = {"MLflow run": progress.store.runs.tracking.run_link(progress.parent_run)}
    if "test" in folders:
        found["report"] = str(folders["test"] / "report.html")
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
