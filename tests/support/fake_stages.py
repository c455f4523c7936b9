"""A plan of tiny stages with the shape of the real one; every stage writes one file and tells that it was called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from softgrpo.config import ExperimentConfig
from softgrpo.stages.contract import Node, Stage, StageContext

TABLE = pd.DataFrame({"method": ["BPR", "SofT-GRPO multi"], "ndcg@10": [0.25, 0.3]})


@dataclass
class FakeStages:
    """The plan split -> recall-A, recall-B -> sft -> test.

    Attributes:
        calls: Names of the stages that ran, in order (recallers by variant).
        before: Called in the stage of that name before it writes its file.
        validation_ndcg: Which every stage says it reached.
    """

    calls: list[str] = field(default_factory=list)
    before: dict[str, Callable[[StageContext], None]] = field(default_factory=dict)
    validation_ndcg: float = 0.2

    def _stage(self, name: str, parameters: Callable[[ExperimentConfig, str], dict[str, Any]]) -> Stage:
        def run(context: StageContext) -> dict[str, float]:
            self.calls.append(f"{name}{context.variant}")
            if name in self.before:
                self.before[name](context)
            read = [(folder / "made").read_text() for folder in context.inputs.values()]
            text = f"{name}{context.variant}({','.join(read)}){parameters(context.config, context.variant)}"
            (context.out / "made").write_text(text)
            context.reporter.metrics({"loss": 0.5, "NDCG@10": 0.25}, step=1)
            context.reporter.info("half way")
            if name == "test":
                TABLE.to_parquet(context.out / "table.parquet")
                for page in ("report.html", "report.md"):
                    (context.out / page).write_text("a report")
            return {
                "ndcg@10/grpo_multi": 0.3,
                "rows": 7.0,
                "best_ndcg": self.validation_ndcg,
                "validation_windows": 4.0,
            }

        return Stage(name, run, parameters, "softgrpo.common.columns", ("numpy",))

    def nodes(self) -> tuple[Node, ...]:
        """Returns the plan."""
        recall = self._stage("recall", lambda config, variant: {"variant": variant, "depth": config.recall.depth})
        return (
            Node("split", self._stage("split", lambda config, _: {"seed": config.seed}), "", ()),
            Node("recall-A", recall, "A", ("split",)),
            Node("recall-B", recall, "B", ("split",)),
            Node(
                "sft",
                self._stage("sft", lambda config, _: config.sft.model_dump(mode="json")),
                "",
                ("split", "recall-A", "recall-B"),
            ),
            Node(
                "test",
                self._stage("test", lambda config, _: {"k": config.fusion.k}),
                "",
                ("split", "recall-A", "recall-B", "sft"),
            ),
        )


ALL = ["split", "recallA", "recallB", "sft", "test"]
NODES = ("split", "recall-A", "recall-B", "sft", "test")
