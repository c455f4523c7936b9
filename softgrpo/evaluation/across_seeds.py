"""Several seeds of one experiment as one table: what a method reaches on average, and how much that depends on the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.config import EvaluationConfig
from softgrpo.errors import DataError
from softgrpo.evaluation.across_runs import EvaluatedRun
from softgrpo.evaluation.table import tabulate

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
        _check(runs[0], frames[0], run, frame, primary)
    shared = [key for key in frames[0]["method"].unique() if all((frame["method"] == key).any() for frame in frames)]
    first = runs[0].table.set_index("method")
    rows = pd.DataFrame({"method": shared})
    rows["label"] = [LABELS.get(key) or str(first.loc[key, "label"]).replace(" (best single)", "") for key in shared]
    rows["kind"] = ["single" if key == BEST_SINGLE else first.loc[key, "kind"] for key in shared]
    common = [name for name in frames[0].columns if all(name in frame.columns for frame in frames)]
    windows = pd.concat([frame[common] for frame in frames], ignore_index=True)
    references = {"vs_single": BEST_SINGLE, "vs_static": STATIC}
    table = tabulate(rows, windows, references, primary, settings, seed)
    means = [frame.groupby(["method", Columns.User])[primary].mean().groupby("method").mean() for frame in frames]
    table[f"{primary}_spread"] = np.std([mean.loc[shared].to_numpy() for mean in means], axis=0, ddof=1)
    return table


def _with_best_single(run: EvaluatedRun) -> pd.DataFrame:
    """Returns a run's windows, its best single recaller once more in front, under a name that all seeds share."""
    best = run.windows[run.windows["method"] == run.best_single]
    return pd.concat([best.assign(method=BEST_SINGLE), run.windows], ignore_index=True)


def _check(first: EvaluatedRun, frame: pd.DataFrame, run: EvaluatedRun, other: pd.DataFrame, primary: str) -> None:
    if primary not in other.columns or not (other["method"] == STATIC).any():
        raise DataError(
            f"run '{run.name}' without {primary} or without the row {STATIC}",
            "Seeds are averaged over what all of them have",
            "Name runs of whole pipelines with equal settings",
        )
    users = [set(each[Columns.User]) for each in (frame, other)]
    if users[0] != users[1]:
        raise DataError(
            f"run '{run.name}' on {len(users[1]):,} test users and run '{first.name}' on {len(users[0]):,}",
            "Seeds are averaged for each user, who must be in all of them",
            "Name runs of one dataset with equal data and split settings; data.max_users draws other users for each seed",
        )
