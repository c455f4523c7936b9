"""Tiny stages for the flows that run several pipelines: their plan follows the pool, and SofT-GRPO has curves to prune by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from softgrpo.config import ExperimentConfig, GRPOConfig
from softgrpo.stages.contract import Node, Stage, StageContext

STEPS = (0, 2, 4, 6)
METRICS = ("ndcg@5", "ndcg@10", "ndcg@20", "recall@10", "recall@20", "hit@10")
BEST_RATE = 1e-5


def reached(grpo: GRPOConfig, step: int) -> float:
    """Validation NDCG of a training: best at a learning rate of 1e-5, better with every step; the start is above all of it."""
    if step == 0:
        return 0.9
    return 0.5 - 0.05 * abs(math.log10(grpo.learning_rate / BEST_RATE)) + 0.01 * step


@dataclass
class FakeGroups:
    """Has the real plan's shape.

    Attributes:
        calls: Names of the nodes whose stage ran, in order.
        before: Called in the stage of that name before it does anything.
        seen: Steps at which SofT-GRPO was evaluated, one list for each training.
    """

    calls: list[str] = field(default_factory=list)
    before: dict[str, Callable[[StageContext], None]] = field(default_factory=dict)
    seen: list[list[int]] = field(default_factory=list)

    def plan(self, config: ExperimentConfig, until: str = "test") -> tuple[Node, ...]:
        """Returns the plan of a configuration."""
        recall = [Node(f"recall-{name}", self._recall(), name, ("split",)) for name in config.recall.recallers]
        pool = list(config.recall.recallers)
        nodes = [
            Node("split", self._stage("split", lambda config, _: {"seed": config.seed}), "", ()),
            *recall,
            Node("data", self._stage("data", lambda *_: {"pool": pool}), "", tuple(node.name for node in recall)),
            Node("sft", self._stage("sft", lambda config, _: config.sft.model_dump(mode="json")), "", ("data",)),
            Node("grpo", self._stage("grpo", lambda config, _: config.grpo.model_dump(mode="json")), "", ("sft",)),
            Node("test", self._stage("test", lambda *_: {}), "", ("grpo",)),
        ]
        names = [node.stage.name for node in nodes]
        return tuple(nodes[: len(names) - names[::-1].index(until)])

    def _recall(self) -> Stage:
        return self._stage("recall", lambda config, name: {"settings": config.recall.settings_of(name)})

    def _stage(self, name: str, parameters: Callable[[ExperimentConfig, str], dict[str, Any]]) -> Stage:
        def run(context: StageContext) -> dict[str, float]:
            self.calls.append("-".join(filter(None, (name, context.variant))))
            if name in self.before:
                self.before[name](context)
            read = [(folder / "made").read_text() for folder in context.inputs.values()]
            made = f"{name}{context.variant}({','.join(read)}){parameters(context.config, context.variant)}"
            (context.out / "made").write_text(made)
            if name == "grpo":
                self._train(context)
            if name == "test":
                _evaluate(context)
            return {"best_ndcg": 0.9, "validation_windows": 4.0}

        return Stage(name, run, parameters, "softgrpo.common.columns", ("numpy",))

    def _train(self, context: StageContext) -> None:
        self.seen.append([])
        for step in STEPS:
            self.seen[-1].append(step)
            values = {"eval_ndcg_best_reading": reached(context.config.grpo, step), "epoch": step / STEPS[-1]}
            (context.work / "checkpoint").write_text(str(step))
            context.reporter.metrics(values, step)
        points = {"step": list(STEPS), "value": [reached(context.config.grpo, step) for step in STEPS]}
        (context.out / "curves.json").write_text(json.dumps({"eval_ndcg_best_reading": points}))


def _evaluate(context: StageContext) -> None:
    """Writes what the real stage leaves behind; more recallers are better, and the weights are better than each of them."""
    pool = context.config.recall.recallers
    scores = {name: 0.1 for name in pool} | {"static": 0.12, "grpo_multi": 0.1 + 0.05 * len(pool)}
    users = np.arange(8)
    frames = [
        pd.DataFrame({"method": method, "window": users, "user": users, **dict.fromkeys(METRICS, score + users * 1e-3)})
        for method, score in scores.items()
    ]
    table = pd.DataFrame({"method": list(scores), "label": list(scores), **dict.fromkeys(METRICS, 0.2)})
    table["kind"] = ["single"] * len(pool) + ["static", "learned"]
    for reference in ("vs_single", "vs_static"):
        for piece in ("", "_relative", "_low", "_high", "_p"):
            table[f"{reference}{piece}"] = [np.nan] + [0.1] * (len(scores) - 1)
    table.to_parquet(context.out / "table.parquet")
    for page in ("report.html", "report.md"):
        (context.out / page).write_text("a report")
    pd.concat(frames, ignore_index=True).to_parquet(context.out / "windows.parquet")
