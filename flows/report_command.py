"""`softgrpo report RUN`: the report of a finished run, wherever it was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from flows.environment import check_takes_files
from flows.finished import FinishedRun, open_finished
from softgrpo.errors import StoreError

PAGE, TEXT, TABLE = "report.html", "report.md", "table.parquet"


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


def check_copy(folder: Path) -> None:
    """Checks where a copy of a report is to go.

    Raises:
        StoreError: Something of that name is there and holds other things than a report, or no folder can be made there.
    """
    if folder.exists() and not (folder / PAGE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(
            f"--to {folder}", "It must be a new folder, an empty one, or one with an earlier report", "Name another"
        )
    check_takes_files("--to", folder)


def copy_report(run: FinishedRun, folder: Path) -> Path:
    """Copies a run's report with its figures and tables into a folder that passed `check_copy`, and returns the folder."""
    shutil.copytree(run.folders["test"], folder, dirs_exist_ok=True)
    return folder


def as_record(run: FinishedRun, folder: Path) -> dict[str, Any]:
    """Returns what a machine reads of a report: the table's rows and where the files are."""
    table = pd.read_parquet(run.folders["test"] / TABLE)
    return {
        "run": run.run_id,
        "name": run.name,
        "k": run.config.fusion.k,
        "rows": json.loads(table.to_json(orient="records")),
        "html": str(folder / PAGE),
        "markdown": str(folder / TEXT),
        "link": run.link,
    }
