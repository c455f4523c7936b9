"""What the stages `recall` of all recallers that work here share: curves, and candidate lists, made, checked and written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from softgrpo.common.artifacts import CANDIDATES, CURVES
from softgrpo.common.names import recaller_and_fold
from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.errors import RecallerError
from softgrpo.recallers.candidate_checks import check_candidates
from softgrpo.recallers.candidates import Scorer, build_candidates, write_candidates
from softgrpo.reporting import Reporter
from softgrpo.stages.contract import LIST_MILLISECONDS, StageContext


@dataclass(frozen=True)
class CurveKeeper:
    """A reporter that also keeps the curves.

    Attributes:
        reporter: Receives all that this one receives.
        curves: Name to `step` and `value`, as the trainings of the language model store them.
    """

    reporter: Reporter
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve."""
        for name, value in values.items():
            points = self.curves.setdefault(name, {"step": [], "value": []})
            points["step"].append(float(step))
            points["value"].append(float(value))
        self.reporter.metrics(values, step)

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self.reporter.info(message)

    def write(self, folder: Path) -> None:
        """Writes the curves into the folder of a stage."""
        (folder / CURVES).write_text(json.dumps(self.curves), encoding="utf-8")


def write_lists(
    context: StageContext, model: Scorer, corpus: Corpus, windows: Windows, batch_size: int, judged: Part = Part.VALID
) -> dict[str, float]:
    """Writes a recaller's candidate lists for some windows.

    Args:
        context: Of the stage.
        model: The recaller.
        corpus: All interactions.
        windows: The windows.
        batch_size: Windows scored at a time.
        judged: The part whose lists must hold anything.

    Returns:
        The stage's final metrics.

    Raises:
        RecallerError: All lists of the windows of that part are empty.
    """
    name, _ = recaller_and_fold(context.variant)
    started = time.perf_counter()
    depth = context.config.recall.depth
    items, scores = build_candidates(model, corpus, windows, depth, batch_size, f"{context.variant} candidates")
    milliseconds = 1000 * (time.perf_counter() - started) / len(windows)
    context.reporter.metrics({LIST_MILLISECONDS: milliseconds}, 0)  # a time is no part of what is stored
    lists = CandidateLists((name,), items[:, None], scores[:, None])
    check_candidates(lists, corpus, windows)
    if not (lists.items[windows.of(judged)] >= 0).any():
        raise RecallerError(
            f"{context.variant} gives no candidate at all",
            "a recaller ranks at least one unseen item",
            "Drop it",
            code="RECALLER-016",
        )
    write_candidates(context.out / CANDIDATES, lists)
    # how good the lists are is a number of the stage `data`: it depends on fusion.k, which must not train recallers anew
    return {"mean_list_length": float(np.mean((lists.items >= 0).sum(2)))}
