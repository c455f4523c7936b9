"""Stage `recall`: train one recaller and write its candidate lists for all windows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from softgrpo.common.artifacts import CANDIDATES, CURVES
from softgrpo.common.records import CandidateLists, Part
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.errors import RecallerError
from softgrpo.recallers.candidates import build_candidates, check_candidates, write_candidates
from softgrpo.recallers.evidence import keep_training_input
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


def run(context: StageContext) -> dict[str, float]:
    from softgrpo.recallers.recbole_adapter import train_recaller  # recbole only where it is used

    config, name = context.config, context.variant
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    keeper = CurveKeeper(context.reporter)
    model = train_recaller(
        name,
        corpus,
        windows,
        config.recall.settings_of(name),
        seed=config.seed,
        targets_per_user=config.recall.targets_per_user,
        work=context.work,
        reporter=keeper,
    )
    (context.out / CURVES).write_text(json.dumps(keeper.curves), encoding="utf-8")
    keep_training_input(context.work, context.out)
    model.save(context.out / "model")
    started = time.perf_counter()
    items, scores = build_candidates(
        model, corpus, windows, config.recall.depth, config.recall.batch_size, f"{name} candidates"
    )
    milliseconds = 1000 * (time.perf_counter() - started) / len(windows)
    context.reporter.metrics({LIST_MILLISECONDS: milliseconds}, 0)  # a time is no part of what is stored
    lists = CandidateLists((name,), items[:, None], scores[:, None])
    check_candidates(lists, corpus, windows)
    if not (lists.items[windows.of(Part.VALID)] >= 0).any():
        raise RecallerError(
            f"{name} gives no candidate at all",
            "a recaller ranks at least one unseen item",
            "Drop it",
            code="RECALLER-016",
        )
    write_candidates(context.out / CANDIDATES, lists)
    # how good the lists are is a number of the stage `data`: it depends on fusion.k, which must not train recallers anew
    return {"mean_list_length": float(np.mean((lists.items >= 0).sum(2)))}
