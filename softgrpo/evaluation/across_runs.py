"""Several runs in one table: the rows of each on the same test windows against one reference, or the average over seeds.

An average says what a method reaches, and how much that depends on the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from softgrpo.common.artifacts import TABLE, WINDOWS
from softgrpo.common.columns import Columns
from softgrpo.config import EvaluationConfig
from softgrpo.errors import DataError
from softgrpo.evaluation.table import tabulate
from softgrpo.evaluation.window_metrics import WindowMetrics


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
    tested = [f"{run.name}/{focus}" for run in runs]
    return tabulate(rows, WindowMetrics.of(windows), references, primary, settings, seed, tested)


def _named(run: EvaluatedRun, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(method=run.name + "/" + frame["method"], run=run.name)


def _check_comparable(first: EvaluatedRun, run: EvaluatedRun, focus: str, primary: str) -> None:
    if primary not in run.windows.columns:
        raise DataError(
            f"run '{run.name}' without {primary}",
            "Runs are compared by a metric that all of them have",
            "Choose another",
            code="DATA-016",
        )
    if focus not in set(run.table["method"]):
        raise DataError(
            f"run '{run.name}' without the row {focus}",
            "Runs are compared by a row that all of them have",
            "Choose another",
            code="DATA-017",
        )
    key = [Columns.Window, Columns.User]
    tested = [part.windows.loc[part.windows["method"] == focus, key].reset_index(drop=True) for part in (first, run)]
    if not tested[0].equals(tested[1]):
        raise DataError(
            f"run '{run.name}' on {len(tested[1]):,} test windows and run '{first.name}' on {len(tested[0]):,}",
            "A paired comparison needs the same windows of the same users",
            "Compare runs of one dataset with equal data and split settings",
            code="DATA-018",
        )


BEST_SINGLE, STATIC = "best_single", "static"
LABELS = {BEST_SINGLE: "Best single recaller of each seed", STATIC: "Best static mixture of each seed"}


def average_seeds(
    runs: Sequence[EvaluatedRun], primary: str, settings: EvaluationConfig, seed: int
) -> pd.DataFrame:  # fmt: skip
    """Returns one table of the rows that all runs have, seeds averaged for each user before anything else.

    Every seed is compared with its own references: its best single recaller and its best static mixture, which its own validation
    windows chose. The bootstrap draws users; what seeds differ in is beside it.

    Args:
        runs: Runs of one experiment with different seeds, at least two.
        primary: The metric of the differences, e.g. `ndcg@10`.
        settings: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Columns as in `Comparison.table`, with the row `best_single` before all others, and `<primary>_spread`: the standard
        deviation over seeds (n - 1) of the mean over users.

    Raises:
        DataError: The runs lack the metric or the row of the best static mixture, or were not tested on the same users.
    """
    frames = [_with_best_single(run) for run in runs]
    for run, frame in zip(runs, frames, strict=True):
        _check_seed(runs[0], frames[0], run, frame, primary)
    shared = [key for key in frames[0]["method"].unique() if all((frame["method"] == key).any() for frame in frames)]
    first = runs[0].table.set_index("method")
    rows = pd.DataFrame({"method": shared})
    rows["label"] = [LABELS.get(key) or str(first.loc[key, "label"]).replace(" (best single)", "") for key in shared]
    rows["kind"] = ["single" if key == BEST_SINGLE else first.loc[key, "kind"] for key in shared]
    common = [name for name in frames[0].columns if all(name in frame.columns for frame in frames)]
    windows = pd.concat([frame[common] for frame in frames], ignore_index=True)
    references = {"vs_single": BEST_SINGLE, "vs_static": STATIC}
    table = tabulate(rows, WindowMetrics.of(windows), references, primary, settings, seed)
    means = [frame.groupby(["method", Columns.User])[primary].mean().groupby("method").mean() for frame in frames]
    table[f"{primary}_spread"] = np.std([mean.loc[shared].to_numpy() for mean in means], axis=0, ddof=1)
    return table


def _with_best_single(run: EvaluatedRun) -> pd.DataFrame:
    """Returns a run's windows, its best single recaller once more in front, under a name that all seeds share."""
    best = run.windows[run.windows["method"] == run.best_single]
    return pd.concat([best.assign(method=BEST_SINGLE), run.windows], ignore_index=True)


def _check_seed(
    first: EvaluatedRun, first_windows: pd.DataFrame, run: EvaluatedRun, windows: pd.DataFrame, primary: str
) -> None:
    if primary not in windows.columns or not (windows["method"] == STATIC).any():
        raise DataError(
            f"run '{run.name}' without {primary} or without the row {STATIC}",
            "Seeds are averaged over what all of them have",
            "Name runs of whole pipelines with equal settings",
            code="DATA-019",
        )
    users = [set(each[Columns.User]) for each in (first_windows, windows)]
    if users[0] != users[1]:
        raise DataError(
            f"run '{run.name}' on {len(users[1]):,} test users and run '{first.name}' on {len(users[0]):,}",
            "Seeds are averaged for each user, who must be in all of them",
            "Name runs of one dataset with equal data and split settings; data.max_users draws other users for each seed",
            code="DATA-020",
        )
