"""What a trained run recommends to whom, from what it stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.results.finished import FinishedRun, open_finished
from softgrpo.common.columns import Columns
from softgrpo.errors import ConfigError
from softgrpo.serving.recommend import recommend, stored_weights
from softgrpo.serving.recommended import Recommended
from softgrpo.stages.inputs import Prepared

STORED = ("split", "data", "test", "grpo")
NEEDED = ("split", "data", "grpo")
SHOWN = 5


@dataclass(frozen=True)
class Recommendation:
    """What was recommended, and how fast.

    Attributes:
        recommended: Users and items.
        seconds: Of reading the stored lists and merging, without finding the run.
        run: The run.
    """

    recommended: Recommended
    seconds: float
    run: FinishedRun


def recommend_from_run(run_id: str, output: Path, users: Sequence[str] | None, k: int | None) -> Recommendation:
    """Recommends from a run that trained a policy.

    Args:
        run_id: MLflow run of a pipeline.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.
        users: Users by name; None takes all of the run.
        k: Length of the lists; None takes the run's `fusion.k`.

    Raises:
        SoftGRPOError: The run is unknown, has no policy, or cannot give what is wanted; nothing was written.
    """
    run = open_finished(run_id, output, STORED, NEEDED)
    start = time.perf_counter()
    prepared = Prepared.of(run.config, run.folders)
    _check_no_lists(users or (), set(prepared.corpus.users[Columns.Token]))
    recommended = recommend(prepared, _weights(run, prepared), users, run.config.fusion.k if k is None else k)
    return Recommendation(recommended, time.perf_counter() - start, run)


def _check_no_lists(users: Sequence[str], known: set[str]) -> None:
    """Refuses a name such as `7,42` that the run does not know, where it knows all of its parts."""
    for name in users:
        parts = [part.strip() for part in name.split(",") if part.strip()]
        if "," in name and name not in known and parts and known.issuperset(parts):
            raise ConfigError(
                f"user '{name}'",
                f"The run knows no such user, but {' and '.join(parts)}",
                f"Users are separated by spaces: --users {' '.join(parts)}; in a file each has a line",
                code="CONFIG-012",
            )


def _weights(run: FinishedRun, prepared: Prepared) -> NDArray[np.float64]:
    """Returns the policy's outputs on the test windows: stored by the stage test, else made now."""
    if "test" in run.folders:
        return stored_weights(run.folders["test"], prepared.lists.recallers)
    from softgrpo.stages.test import policy_weights

    return policy_weights(run.folders["grpo"], run.config, prepared, "policy on test windows").numpy()


def notes(recommended: Recommended) -> list[str]:
    """Returns one line for each reason for which users got the static mixture, and one for those that got nothing."""
    lines = [
        f"{len(users):,} of {len(recommended.users):,} users get the static mixture ({reason}): {_few(users)}"
        for reason, users in recommended.fallbacks.items()
    ]
    served = set(recommended.items["user"])
    empty = [user for user in recommended.users["user"] if user not in served]
    if empty:
        lines.append(
            f"{len(empty):,} of {len(recommended.users):,} users get nothing, no recaller has an item for them: {_few(empty)}"
        )
    return lines


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
