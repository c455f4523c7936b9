"""What a trained run recommends to whom, from what it stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softgrpo.baselines.gates import load_gate
from softgrpo.baselines.item_ranker import Ranking, load_ranker
from softgrpo.common.columns import Columns
from softgrpo.common.records import Part
from softgrpo.common.text import counted
from softgrpo.errors import ConfigError
from softgrpo.evaluation.chosen import BEST, Chosen, UsableMethod
from softgrpo.flows.results.finished import FinishedRun, check_reached, open_finished
from softgrpo.serving.choice import methods_of
from softgrpo.serving.recommend import recommend, stored_weights
from softgrpo.serving.recommended import Recommended
from softgrpo.stages.inputs import Prepared, embeddings_of
from softgrpo.stages.ranker import rank_rows

STORED = ("split", "embed", "data", "gates", "test", "grpo")
NEEDED = ("split", "data")
METHODS = ("grpo", "gates")
"""Stages of which a run needs one: there is no method to recommend by without them."""
SHOWN = 5
NO_CHOICE = "the run stored no choice of validation windows among its methods: SofT-GRPO gives the weights"


@dataclass(frozen=True)
class Recommendation:
    """What was recommended, and how fast.

    Attributes:
        recommended: Users and items.
        method: What gave the weights, or the order of the items.
        chosen: The methods of the run, and the one that validation windows chose.
        seconds: Of reading the stored lists and merging, without finding the run.
        run: The run.
    """

    recommended: Recommended
    method: UsableMethod
    chosen: Chosen
    seconds: float
    run: FinishedRun

    @property
    def said(self) -> str:
        """Who recommends, in words."""
        why = (
            ", best of all on validation windows" if self.chosen.windows and self.method.key == self.chosen.best else ""
        )
        return f"method: {self.method.label} ({self.method.key}{why})"


def recommend_from_run(
    run_id: str, output: Path, users: Sequence[str] | None, k: int | None, method: str = BEST
) -> Recommendation:  # fmt: skip
    """Recommends from a run that got as far as the stage grpo, or gates.

    Args:
        run_id: MLflow run of a pipeline.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.
        users: Users by name; None takes all of the run.
        k: Length of the lists; None takes the run's `fusion.k`.
        method: Key of a row that can be used on new windows; `best` takes the one that validation windows chose.

    Raises:
        SoftGRPOError: The run is unknown, has no such method, or cannot give what is wanted; nothing was written.
    """
    run = open_finished(run_id, output, STORED, NEEDED)
    check_reached(run_id, run.folders, METHODS)
    start = time.perf_counter()
    prepared = Prepared.of(run.config, run.folders)
    _check_no_lists(users or (), set(prepared.corpus.users[Columns.Token]))
    chosen = methods_of(run.folders, run.config.fusion.k)
    if not chosen.windows:
        check_reached(run_id, run.folders, ("grpo",))
    wanted = chosen.method(method)
    outputs = _outputs(run, prepared, wanted)
    recommended = recommend(prepared, outputs, users, run.config.fusion.k if k is None else k, wanted.key)
    return Recommendation(recommended, wanted, chosen, time.perf_counter() - start, run)


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


def _outputs(run: FinishedRun, prepared: Prepared, method: UsableMethod) -> NDArray[np.float64] | Ranking:
    """Returns what a method says of the test windows: stored by the stage test, else asked now."""
    rows, folders = prepared.windows.of(Part.TEST), run.folders
    if method.kind == "ranker":
        return rank_rows(prepared, load_ranker(folders["gates"]), rows, embeddings_of(folders))
    if method.weights is not None:
        return np.tile(method.weights, (len(rows), 1))
    if "test" in folders:
        return stored_weights(folders["test"], prepared.recallers, method.key)
    if method.kind == "gate":
        gate = load_gate(folders["gates"], method.key.removeprefix("gate_"))
        return gate.weights(prepared.numbers.values[rows], prepared.windows.start[rows])
    from softgrpo.stages.answered import policy_weights
    from softgrpo.stages.opened import Opened

    return policy_weights(Opened(run.config, folders), "grpo", "policy on test windows").numpy()


def notes(recommendation: Recommendation) -> list[str]:
    """Returns one line for each reason for which users got the static mixture, one for those that got nothing, and one where the
    run chose no method.
    """
    recommended = recommendation.recommended
    lines = [] if recommendation.chosen.windows else [NO_CHOICE]
    lines += [
        f"{len(users):,} of {counted(len(recommended.users), 'user')} get the static mixture ({reason}): {_few(users)}"
        for reason, users in recommended.fallbacks.items()
    ]
    served = set(recommended.items["user"])
    empty = [user for user in recommended.users["user"] if user not in served]
    if empty:
        lines.append(
            f"{len(empty):,} of {counted(len(recommended.users), 'user')} get nothing, no recaller has an item for them: "
            f"{_few(empty)}"
        )
    return lines


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
