"""Several runs in one table: the rows of each, on the same test windows, against one reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from softgrpo.common.artifacts import TABLE, WINDOWS
from softgrpo.common.columns import Columns
from softgrpo.config import EvaluationConfig
from softgrpo.errors import DataError
from softgrpo.evaluation.table import tabulate


@dataclass(frozen=True)
class EvaluatedRun:
    """What the test stage of a run left behind.

    Attributes:
        name: What people call the run.
        table: See `softgrpo.evaluation.table.Comparison`.
        windows: See `softgrpo.evaluation.table.Comparison`.
    """

    name: str
    table: pd.DataFrame
    windows: pd.DataFrame

    @classmethod
    def read(cls, name: str, folder: Path) -> EvaluatedRun:
        """Reads the files of a test stage.

        Args:
            name: What people call the run.
            folder: The stage's payload.
        """
        return cls(name, pd.read_parquet(folder / TABLE), pd.read_parquet(folder / WINDOWS))

    @property
    def best_single(self) -> str:
        """Key of the best single recaller, the one that the table compares with nothing."""
        return str(self.table.loc[self.table["vs_single"].isna(), "method"].item())


def compare_runs(
    runs: Sequence[EvaluatedRun], focus: str, primary: str, settings: EvaluationConfig, seed: int
) -> pd.DataFrame:
    """Returns one table of all rows of all runs.

    Args:
        runs: At least two, with different names; the first one holds the references.
        focus: Key of the method that runs are compared by, e.g. `grpo_multi`.
        primary: The metric of the differences, e.g. `ndcg@10`.
        settings: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Columns as in `Comparison.table`, and `run`; `method` is `<run>/<key>`. `vs_single` compares with the first run's best
        single recaller, `vs_first` with the first run's `focus`. The rows `focus` are what is asked about: they alone get p-values,
        which Holm corrects over them; the others are tested in their own run's table. Metrics that some run lacks are left out.

    Raises:
        DataError: The runs have no metric or method to compare, or were not tested on the same windows of the same users.
    """
    first = runs[0]
    for run in runs:
        _check_comparable(first, run, focus, primary)
    shared = [name for name in first.windows.columns if all(name in run.windows.columns for run in runs)]
    rows = pd.concat([_named(run, run.table[["method", "label", "kind"]]) for run in runs], ignore_index=True)
    rows["label"] = rows["run"] + ": " + rows["label"]
    windows = pd.concat([_named(run, run.windows[shared]) for run in runs], ignore_index=True).drop(columns="run")
    references = {"vs_single": f"{first.name}/{first.best_single}", "vs_first": f"{first.name}/{focus}"}
    asked = [f"{run.name}/{focus}" for run in runs]
    return tabulate(rows, windows, references, primary, settings, seed, asked)


def _named(run: EvaluatedRun, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(method=run.name + "/" + frame["method"], run=run.name)


def _check_comparable(first: EvaluatedRun, run: EvaluatedRun, focus: str, primary: str) -> None:
    if primary not in run.windows.columns:
        raise DataError(
            f"run '{run.name}' without {primary}",
            "Runs are compared by a metric that all of them have",
            "Choose another",
        )
    if focus not in set(run.table["method"]):
        raise DataError(
            f"run '{run.name}' without the row {focus}",
            "Runs are compared by a row that all of them have",
            "Choose another",
        )
    key = [Columns.Window, Columns.User]
    tested = [part.windows.loc[part.windows["method"] == focus, key].reset_index(drop=True) for part in (first, run)]
    if not tested[0].equals(tested[1]):
        raise DataError(
            f"run '{run.name}' on {len(tested[1]):,} test windows and run '{first.name}' on {len(tested[0]):,}",
            "A paired comparison needs the same windows of the same users",
            "Compare runs of one dataset with equal data and split settings",
        )
