"""Stage `recall`: train one recaller and write its candidate lists for all windows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from softgrpo.common.artifacts import CURVES
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.evidence import keep_training_input
from softgrpo.reporting import Reporter
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists


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
    return write_lists(context, model, corpus, windows, config.recall.batch_size)
