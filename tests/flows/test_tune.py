"""`tune`: trials, pruning, resumption and result; on tiny stages."""

from __future__ import annotations

import html
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from softgrpo.errors import ConfigError, StoreError, TrainingError
from softgrpo.flows.cli import COMMANDS, build_parser
from softgrpo.flows.command.flags import overrides
from softgrpo.pipeline.tuning import as_overrides
from softgrpo.presets import resolve
from softgrpo.stages.contract import StageContext
from tests.support.fake_groups import BEST_RATE, FakeGroups

SETTINGS = [
    *("grpo.learning_rate", "grpo.tau_gumbel", "grpo.top_p", "grpo.epsilon", "grpo.beta"),
    *("grpo.noise_scale", "grpo.reward_k", "grpo.head_learning_rate"),
]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeGroups:
    import softgrpo.flows.tune as module

    found = FakeGroups()
    monkeypatch.setattr(module, "plan", found.plan)
    return found


def go(output: Path, trials: int, **options: Any) -> Any:
    from softgrpo.flows.tune import tune_flow

    return tune_flow(trials=trials, output=output, check=False, parallel=1, **{"final": False, **options})


def runs(output: Path, query: str) -> list[Any]:
    from mlflow import MlflowClient

    found = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = found.get_experiment_by_name("softgrpo/ml-100k")
    return list(found.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]))


def test_trials_share_what_comes_before_and_the_best_is_run_to_the_end(fakes: FakeGroups, output: Path) -> None:
    tuned = go(output, 3, final=True, overrides={"sft.num_train_epochs": 2})
    before = [name for name in fakes.calls if name not in ("grpo", "test")]
    assert before == ["split", "recall-SASRec", "recall-EASE", "recall-Text", "data", "sft"]
    assert fakes.calls.count("grpo") == 3  # the last run takes the best trial's
    assert fakes.calls[-1] == "test"
    assert list(tuned.trials["state"]) == ["complete"] * 3
    start = tuned.trials.iloc[0]
    assert start["grpo.learning_rate"] == 1e-5 and start["grpo.top_p"] == 1.0  # the search starts from what is set
    assert start["grpo.reward_k"] == 20
    assert start["grpo.head_learning_rate"] == 3e-3
    best = tuned.trials.loc[tuned.trials["validation_ndcg"].idxmax()]
    assert tuned.best == {name: best[name] for name in SETTINGS}
    assert tuned.value == best["validation_ndcg"] < 0.9  # the starting point does not count
    assert tuned.final is not None and "grpo" in tuned.final.reused


def test_trials_are_nested_and_the_result_is_in_mlflow(fakes: FakeGroups, output: Path) -> None:
    tuned = go(output, 2)
    (group,) = runs(output, "tags.group = 'tune'")
    trials = runs(output, "tags.stage = 'pipeline'")
    assert [run.info.run_name.partition(": ")[0] for run in trials] == ["trial 0", "trial 1"]
    assert " of 2 trials: " in group.data.tags["mlflow.note.content"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {group.info.run_id}
    assert list(tuned.trials["run"]) == [run.info.run_id for run in trials]
    assert "test" not in fakes.calls  # test windows are not looked at while tuning
    assert group.data.metrics["best_validation_ndcg"] == tuned.value
    (folder,) = output.glob(f"mlartifacts/**/{group.info.run_id}/artifacts")
    assert yaml.safe_load((folder / "best.yaml").read_text()) == tuned.best
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "trials.parquet"), tuned.trials)
    assert tuned.command in (folder / "trials.md").read_text()
    assert tuned.page == output.resolve() / "reports" / f"{group.info.run_id}.html"
    assert tuned.page.read_text() == (folder / "study.html").read_text()
    assert all(html.escape(sentence, quote=False) in tuned.page.read_text() for sentence in tuned.sentences)


def test_a_bad_trial_ends_early_and_leaves_nothing(fakes: FakeGroups, output: Path) -> None:
    tuned = go(output, 8)
    states = tuned.trials["state"].value_counts()
    assert states["pruned"] > 0 and states["complete"] >= 5 and states.sum() == 8
    pruned = tuned.trials[tuned.trials["state"] == "pruned"].iloc[0]
    assert 0 < pruned["last_step"] < 6 and "below the median" in pruned["reason"]
    assert [steps[-1] for steps in fakes.seen].count(6) == states["complete"]
    (pipeline,) = [run for run in runs(output, "tags.stage = 'pipeline'") if run.info.run_id == pruned["run"]]
    (stage,) = runs(output, f"tags.`mlflow.parentRunId` = '{pruned['run']}' and tags.node = 'grpo'")
    for run in (pipeline, stage):
        assert run.info.status == "KILLED" and "below the median" in run.data.tags["pruned"]
    assert "committed" not in stage.data.tags
    assert len(runs(output, "tags.node = 'grpo' and tags.committed = 'true'")) == states["complete"]
    assert not list(output.glob("stages/.work/grpo-*")) and not list(output.glob("stages/.staging/*"))
    # complete trials are near the best rate, and pruned ones are not the best
    assert abs(tuned.best["grpo.learning_rate"] / BEST_RATE - 1) < 3


def test_a_study_goes_on_and_its_number_of_trials_is_the_total(fakes: FakeGroups, output: Path, tmp_path: Path) -> None:
    go(output, 2)
    resumed = go(output, 4)
    again = go(output, 4)
    assert fakes.calls.count("grpo") == 4
    pd.testing.assert_frame_equal(again.trials, resumed.trials)
    assert len(runs(output, "tags.group = 'tune'")) == 1
    assert [run.info.status for run in runs(output, "tags.group = 'tune'")] == ["FINISHED"]
    whole = go(tmp_path / "whole", 4)  # what was tried does not depend on the break
    pd.testing.assert_frame_equal(whole.trials.drop(columns="run"), resumed.trials.drop(columns="run"))


def test_a_trial_that_was_cut_off_is_failed_and_tried_again(fakes: FakeGroups, output: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(_: StageContext) -> None:
        if len(fakes.seen) == 2:
            raise Killed

    fakes.before["grpo"] = kill
    with pytest.raises(Killed):
        go(output, 4)
    del fakes.before["grpo"]
    tuned = go(output, 4)
    assert list(tuned.trials["state"]) == ["complete", "complete", "fail", "complete", "complete"]
    assert list(tuned.trials["retry_of"]) == [-1, -1, -1, 2, -1]
    assert tuned.trials.loc[2, SETTINGS].equals(tuned.trials.loc[3, SETTINGS])
    whole = go(tmp_path / "whole", 4)
    ended = tuned.trials[tuned.trials["state"] == "complete"]
    assert ended[SETTINGS].to_numpy().tolist() == whole.trials[SETTINGS].to_numpy().tolist()


def test_what_kill_9_leaves_behind_is_put_right(fakes: FakeGroups, output: Path) -> None:
    """Optuna and MLflow both say that a trial is running, and nobody runs it."""
    from mlflow import MlflowClient

    from softgrpo.flows.study import open_study
    from softgrpo.pipeline.store import LocalStore

    go(output, 1)
    (group,) = runs(output, "tags.group = 'tune'")
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    tags = {"mlflow.parentRunId": group.info.run_id, "member": "trial 1"}
    lost = client.create_run(group.info.experiment_id, tags=tags).info.run_id
    inside = client.create_run(group.info.experiment_id, tags={"mlflow.parentRunId": lost}).info.run_id
    client.update_run(group.info.run_id, status="RUNNING")
    study = open_study(group.data.tags["group_name"], output, LocalStore(output / "stages"))
    trial = study.ask()
    trial.suggest_float("top_p", 0.5, 1.0)
    tuned = go(output, 2)
    assert list(tuned.trials["state"]) == ["complete", "fail", "complete"]
    assert tuned.trials.loc[1, "grpo.top_p"] == tuned.trials.loc[2, "grpo.top_p"]
    assert [client.get_run(run_id).info.status for run_id in (lost, inside, group.info.run_id)] == [
        "KILLED",
        "KILLED",
        "FINISHED",
    ]


def test_a_training_that_diverges_is_a_bad_trial_and_other_errors_end_the_study(
    fakes: FakeGroups, output: Path
) -> None:
    def diverge(context: StageContext) -> None:
        if context.config.grpo.learning_rate != 1e-5:
            raise TrainingError(
                "loss is nan at step 3", "it must be finite", "Lower the learning rate", code="TRAINING-000"
            )

    fakes.before["grpo"] = diverge
    tuned = go(output, 3)
    assert list(tuned.trials["state"]) == ["complete", "pruned", "pruned"]
    assert "loss is nan" in tuned.trials.loc[1, "reason"]
    assert tuned.best["grpo.learning_rate"] == 1e-5

    def fail(_: StageContext) -> None:
        raise StoreError("the disk", "it must be there", "Bring it back", code="STORE-000")

    fakes.before["grpo"] = fail
    with pytest.raises(StoreError, match="the disk"):
        go(output, 4)
    del fakes.before["grpo"]
    assert list(go(output, 4).trials["state"]) == ["complete", "pruned", "pruned", "fail", "complete"]


def test_a_study_in_which_no_training_ended_says_so(fakes: FakeGroups, output: Path) -> None:
    def diverge(_: StageContext) -> None:
        raise TrainingError(
            "loss is nan at step 3", "it must be finite", "Lower the learning rate", code="TRAINING-000"
        )

    fakes.before["grpo"] = diverge
    with pytest.raises(TrainingError, match="none of 2 trials came to its end"):
        go(output, 2)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"trials": 0}, "A study has at least one"),
        ({"trials": 1, "overrides": {"grpo.learning_rate": 1.0}}, "must lie in 1e-07 to 0.0002"),
        ({"trials": 1, "overrides": {"grpo.top": 1.0}}, "grpo.top_p"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    options: dict[str, Any], rule: str, fakes: FakeGroups, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rule):
        go(tmp_path, **options)
    assert fakes.calls == [] and list(tmp_path.iterdir()) == []


def test_the_command_runs_what_was_found() -> None:
    from softgrpo.flows.tune import command_line

    said = {
        "recall.recallers": ["BPR", "Pop"],
        "recall.settings.Pop": {},
        "recall.settings.BPR.epochs": 3,
        "train.bf16": True,
        "data.min_rating": -1.5,
        "train.max_train_windows": None,
        "policy.model_name": "a folder/model",
        "data.data_path": Path("some where"),
    } | as_overrides({"learning_rate": 1.23456789e-5, "top_p": 0.5})
    words = shlex.split(command_line("ml-100k", "debug", "tiny", said, Path("my outputs")))
    assert words[:5] == ["softgrpo", "run", "ml-100k", "debug", "tiny"] and words[-2:] == ["--output", "my outputs"]
    parsed = build_parser(words[1:], COMMANDS).parse_args(words[1:])
    assert resolve("ml-100k", "tiny", "debug", overrides(parsed)) == resolve("ml-100k", "tiny", "debug", said)
    assert "--grpo.learning_rate 1.235e-05" in " ".join(words)
