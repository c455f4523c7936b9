"""`multi-recaller`: several pools, each recaller trained once, one comparison; on tiny stages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from softgrpo.errors import ConfigError, SoftGRPOError
from tests.support.fake_groups import FakeGroups

SETTINGS = {"evaluation.bootstrap": 4000}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeGroups:
    import softgrpo.flows.variants as module

    found = FakeGroups()
    monkeypatch.setattr(module, "plan", found.plan)
    return found


def go(output: Path, pools: list[list[str]] | None = None, **options: Any) -> Any:
    from softgrpo.flows.variants import multi_recaller_flow

    overrides = SETTINGS | options.pop("overrides", {})
    return multi_recaller_flow(pools=pools, overrides=overrides, output=output, check=False, parallel=1, **options)


def client(output: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{output / 'mlflow.db'}")


def runs(output: Path, query: str) -> list[Any]:
    found = client(output)
    experiment = found.get_experiment_by_name("softgrpo/ml-100k")
    return list(found.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]))


def test_every_recaller_is_trained_once_for_all_pools(fakes: FakeGroups, output: Path) -> None:
    compared = go(output)
    counts = Counter(fakes.calls)
    assert {name: counts[name] for name in ("split", "recall-SASRec", "recall-EASE", "recall-Text")} == {
        "split": 1,
        "recall-SASRec": 1,
        "recall-EASE": 1,
        "recall-Text": 1,
    }
    assert counts["data"] == counts["sft"] == counts["grpo"] == counts["test"] == 4
    pools = ["SASRec-EASE-Text", "SASRec-EASE", "SASRec-Text", "EASE-Text"]
    assert list(dict.fromkeys(compared.table["run"])) == pools
    rows = compared.table.set_index("method")
    assert rows.loc["SASRec-EASE/grpo_multi", "vs_first"] == pytest.approx(-0.05)
    assert rows.loc["SASRec-EASE-Text/grpo_multi", "vs_single"] == pytest.approx(0.15)
    assert len(compared.verdicts) == 3 and "worse than SASRec-EASE-Text" in compared.verdicts[0]
    fakes.calls.clear()
    go(output)
    assert fakes.calls == []


def test_pools_are_nested_under_one_run_that_holds_the_comparison(fakes: FakeGroups, output: Path) -> None:
    pools = [["BPR", "Pop"], ["BPR", "ItemKNN"]]
    compared = go(output, pools)
    (group,) = runs(output, "tags.group = 'multi-recaller'")
    pipelines = runs(output, "tags.stage = 'pipeline'")
    assert [run.info.run_name.partition(": ")[0] for run in pipelines] == ["BPR-Pop", "BPR-ItemKNN"]
    note = group.data.tags["mlflow.note.content"]
    assert "| BPR-Pop | 0.2035 |" in note and f"runs/{pipelines[0].info.run_id}?" in note
    assert {run.data.tags["mlflow.parentRunId"] for run in pipelines} == {group.info.run_id}
    page = output / "reports" / f"{group.info.run_id}.html"
    assert compared.page == page.resolve() and "comparison.html" in {
        artifact.path for artifact in client(output).list_artifacts(group.info.run_id)
    }
    assert re.search("These 2 runs differ in .*recall.recallers", page.read_text())
    stages = runs(output, "tags.node = 'grpo'")
    assert [run.data.tags["mlflow.parentRunId"] for run in stages] == [run.info.run_id for run in pipelines]
    assert {run.info.status for run in (group, *pipelines, *stages)} == {"FINISHED"}
    assert group.data.metrics["BPR-Pop/grpo_multi/ndcg_at_10"] == pytest.approx(0.2035)
    assert group.data.params["pools"] == '["BPR-Pop", "BPR-ItemKNN"]'
    files = {file.path: client(output).download_artifacts(group.info.run_id, file.path) for file in
             client(output).list_artifacts(group.info.run_id)}  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_parquet(files["comparison.parquet"]), compared.table)
    assert "| BPR-Pop: grpo\\_multi |" in Path(files["comparison.md"]).read_text()


def test_what_is_said_about_a_recaller_counts_in_the_pools_that_have_it(fakes: FakeGroups, output: Path) -> None:
    pools = [["bpr", "ItemKNN"], ["BPR", "Pop"]]
    go(output, pools, overrides={"recall.settings.ItemKNN.k": 7})
    first, second = runs(output, "tags.stage = 'pipeline'")
    assert first.data.params["recall.settings.ItemKNN.k"] == "7"
    assert not any(name.startswith("recall.settings.ItemKNN") for name in second.data.params)
    assert fakes.calls.count("recall-BPR") == 1


def test_wrong_pools_are_all_named_before_anything_runs(fakes: FakeGroups, tmp_path: Path) -> None:
    pools = [["BPR", "SASRek"], ["BPR"], ["Pop", "Pop"], ["BPR", "Pop"], ["Pop", "BPR"]]
    with pytest.raises(ConfigError) as refused:
        go(tmp_path, pools)
    said = str(refused.value)
    for part in (
        "SASRek",
        "Did you mean 'SASRec'",
        "Pool 'BPR'. A pool needs at least two",
        "Pop, Pop",
        "'BPR-Pop', 2 times",
    ):
        assert part in said
    assert fakes.calls == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pools", "overrides", "rule"),
    [
        ([["BPR", "Pop"]], {}, "A comparison takes at least two"),
        ([], {}, "0 pools"),
        (None, {"recall.recallers": ["BPR", "Pop"]}, "1 pool\\."),
        ([["BPR", "Pop"], ["BPR", "EASE"]], {"recall.recallers": ["BPR", "Pop"]}, "Leave one of them out"),
        ([["BPR", "Pop"], ["BPR", "EASE"]], {"recall.settings.SASRec.epochs": 3}, "not in recall.recallers"),
    ],
)
def test_other_contradictions_are_refused(
    pools: list[list[str]] | None, overrides: dict[str, Any], rule: str, fakes: FakeGroups, tmp_path: Path
) -> None:
    with pytest.raises(SoftGRPOError, match=rule):
        go(tmp_path, pools, overrides=overrides)
    assert list(tmp_path.iterdir()) == []
