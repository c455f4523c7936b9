"""The page of a run: what is filled in behind the stage that wrote it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.pages.provenance import COSTS, PROVENANCE, place
from softgrpo.flows.results.report_page import PAGE, TEXT, RunFacts, complete
from softgrpo.pipeline.run import local_costs, run_standalone
from softgrpo.pipeline.store import LocalStore
from softgrpo.stages.contract import LIST_MILLISECONDS, Node, Stage, StageContext

TIMES = {
    "recall-A/cost/list_ms": 1.0,
    "recall-B/cost/list_ms": 2.0,
    "test/cost/merge_ms": 0.5,
    "test/cost/policy_ms": 4.0,
}


@pytest.fixture
def config() -> ExperimentConfig:
    return ExperimentConfig.model_validate({"recall": {"recallers": ("A", "B")}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a stage `test`, with the pages' empty places."""
    for name in (PAGE, TEXT):
        (tmp_path / name).write_text(f"{place(PROVENANCE)}\n{place(COSTS)}\n")
    rows = [("A", "A", "single", 0.1), ("B", "B", "single", 0.2), ("grpo_multi", "SofT", "learned", 0.3)]
    pd.DataFrame(rows, columns=["method", "label", "kind", "ndcg@10"]).to_parquet(tmp_path / "table.parquet")
    return tmp_path


def test_a_run_without_mlflow_has_the_figure_too(folder: Path, config: ExperimentConfig) -> None:
    """All lists, the merge and the language model: 1 + 2 + 0.5 + 4."""
    pages = complete(folder, RunFacts(config, datetime.now(UTC), costs=TIMES))
    assert "A: 1 ms" in pages[PAGE] and "SofT: 7.5 ms" in pages[PAGE] and "no time is known" not in pages[PAGE]
    assert "| SofT | 0.3000 | 7.5 |" in pages[TEXT]


def test_times_that_are_not_known_are_named(folder: Path, config: ExperimentConfig) -> None:
    costs = {name: value for name, value in TIMES.items() if "merge" not in name and "B" not in name}
    pages = complete(folder, RunFacts(config, datetime.now(UTC), costs=costs))
    for text in pages.values():
        assert "no time is known for the list of B, the merge. Times" in text and "Quality against cost" in text
    assert "<svg" not in pages[PAGE]


def test_stages_keep_their_times_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(context: StageContext) -> dict[str, float]:
        context.reporter.metrics({LIST_MILLISECONDS: 3.0, "loss": 1.0}, 0)
        (context.out / "file").write_text("x")
        return {}

    stage = Stage("recall", fill, lambda config, variant: {}, "softgrpo.common.columns", ())
    monkeypatch.setattr("softgrpo.pipeline.run.plan", lambda config, until: (Node("recall-A", stage, "A", ()),))
    for reused in ((), ("recall-A",)):
        result = run_standalone(ExperimentConfig(), output=tmp_path)
        assert result.reused == reused
        assert local_costs(LocalStore(tmp_path / "stages"), result.folders) == {"recall-A/cost/list_ms": 3.0}
    assert not list(result.folders["recall-A"].rglob("*cost*")), "times are no part of what a stage made"
