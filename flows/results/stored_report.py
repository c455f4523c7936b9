"""The stored report of a finished run: found, copied, or published in the output folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from softgrpo.errors import StoreError
from softgrpo.evaluation.summary import read_summary
from softgrpo.flows.results.finished import FinishedRun, open_finished
from softgrpo.flows.results.report_page import PAGE, TEXT, RunFacts, complete, write_page

TABLE = "table.parquet"
FILES = (PAGE, TEXT, TABLE)
"""What every copy of a report has."""


def open_report(run_id: str, output: Path) -> FinishedRun:
    """Finds a run's report, fetching it if it is not here.

    Args:
        run_id: MLflow run of a whole pipeline.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.

    Raises:
        ConfigError: There is no such run, or it did not reach the stage test.
        StoreError: MLflow does not answer, or files are gone or damaged.
    """
    return open_finished(run_id, output, ("test",), ("test",))


def files_of(run: FinishedRun) -> list[Path]:
    """Returns every file that `copy_report` writes, relative to the copy."""
    source = run.folders["test"]
    return [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]


def copy_report(run: FinishedRun, folder: Path) -> tuple[Path, Path]:
    """Copies a run's report with its figures and tables.

    Args:
        run: The run.
        folder: Where; files that are in the way were checked before.

    Returns:
        The page in HTML, and the same in Markdown.

    Raises:
        StoreError: A file cannot be written.
    """
    try:
        shutil.copytree(run.folders["test"], folder, dirs_exist_ok=True)
    except shutil.Error as error:
        # holds (source, target, reason) of each file; of a single file only the letters of the reason
        failures = error.args[0]
        reasons = [str(failure[-1]) for failure in failures if isinstance(failure, tuple)]
        raise StoreError(
            f"--to {folder}: {reasons[0] if reasons else ''.join(map(str, failures))}",
            "All files of the report are copied",
            "Mend that, or name another folder",
            code="STORE-005",
        ) from error
    for name, text in complete(run.folders["test"], facts_of(run)).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / PAGE, folder / TEXT


def publish_report(run: FinishedRun, output: Path) -> tuple[Path, Path]:
    """Writes a run's page to the reports of an output folder; returns it, and the stored Markdown."""
    stored = run.folders["test"]
    return write_page(stored, output, facts_of(run)), stored / TEXT


def facts_of(run: FinishedRun) -> RunFacts:
    """Returns what the page of a run says of it besides its results."""
    return RunFacts(run.config, run.started, run.run_id, run.name, run.commit, run.link, run.costs)


def table_of(run: FinishedRun) -> pd.DataFrame:
    """Returns the comparison table, see `softgrpo.evaluation.table.Comparison`."""
    return pd.read_parquet(run.folders["test"] / TABLE)


def summary_of(run: FinishedRun) -> tuple[str, ...]:
    """Returns the sentences that sum up the run, none where it stored none."""
    summary = read_summary(run.folders["test"])
    return tuple(summary.sentences) if summary else ()


def as_record(run: FinishedRun, page: Path, text: Path) -> dict[str, Any]:
    """Returns what a machine reads of a report: the table's rows and where the files are.

    Args:
        run: The run.
        page: The HTML page.
        text: The same in Markdown.
    """
    return {
        "run_id": run.run_id,
        "name": run.name,
        "k": run.config.fusion.k,
        "rows": json.loads(table_of(run).to_json(orient="records")),
        "html": str(page),
        "markdown": str(text),
        "link": run.link,
    }
