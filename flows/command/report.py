"""`softgrpo report RUN`: the report of a finished run, wherever it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flows.command.destination import check_destination, check_outside_stores
from flows.results.finished import FinishedRun, open_finished
from flows.results.report_page import PAGE, TEXT, RunFacts, complete
from flows.runtime.environment import check_takes_files
from softgrpo.errors import StoreError

TABLE = "table.parquet"


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


def check_copy(
    folder: Path, files: Sequence[str] = (PAGE, TEXT, TABLE), what: str = "report", *, overwrite: bool
) -> None:
    """Checks where a copy of a report is to go, before the run is looked for.

    Args:
        folder: Where.
        files: What an earlier copy there has.
        what: What people call it.
        overwrite: An earlier copy may be written over.

    Raises:
        StoreError: Something of that name is there and holds other things than an earlier copy, it holds one that may not be
            written over, it belongs to stored stages, or no folder can be made there.
    """
    check_outside_stores(folder)
    earlier = all((folder / name).is_file() for name in files)
    if folder.exists() and not earlier and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(
            f"--to {folder}",
            f"It must be a new folder, an empty one, or with --overwrite one with an earlier {what} "
            f"({', '.join(files[:-1])} and {files[-1]})",
            "Name another",
        )
    check_destination([folder / name for name in files], overwrite=overwrite)
    check_takes_files("--to", folder)


def check_files(run: FinishedRun, folder: Path, *, overwrite: bool) -> None:
    """Checks every file that `copy_report` will write.

    Raises:
        StoreError: See `flows.command.destination.check_destination`.
    """
    source = run.folders["test"]
    files = (path for path in sorted(source.rglob("*")) if path.is_file())
    check_destination([folder / path.relative_to(source) for path in files], overwrite=overwrite)


def copy_report(run: FinishedRun, folder: Path) -> Path:
    """Copies a run's report with its figures and tables into a folder that passed both checks, and returns the folder.

    Raises:
        StoreError: A file cannot be written.
    """
    try:
        shutil.copytree(run.folders["test"], folder, dirs_exist_ok=True)
    except (
        shutil.Error
    ) as error:  # holds (source, target, reason) of each file, or what it says of one, letter by letter
        failed = error.args[0]
        words = [str(part[-1]) for part in failed if isinstance(part, tuple)] or ["".join(map(str, failed))]
        raise StoreError(
            f"--to {folder}: {words[0]}", "All files of the report are copied", "Mend that, or name another folder"
        ) from error
    for name, text in complete(run.folders["test"], facts_of(run)).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def facts_of(run: FinishedRun) -> RunFacts:
    """Returns what the page of a run says of it besides its results."""
    return RunFacts(run.config, run.started, run.run_id, run.name, run.commit, run.link, run.costs)


def as_record(run: FinishedRun, page: Path, text: Path) -> dict[str, Any]:
    """Returns what a machine reads of a report: the table's rows and where the files are.

    Args:
        run: The run.
        page: The HTML page.
        text: The same in Markdown.
    """
    table = pd.read_parquet(run.folders["test"] / TABLE)
    return {
        "run_id": run.run_id,
        "name": run.name,
        "k": run.config.fusion.k,
        "rows": json.loads(table.to_json(orient="records")),
        "html": str(page),
        "markdown": str(text),
        "link": run.link,
    }
