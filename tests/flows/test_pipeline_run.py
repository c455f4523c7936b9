"""What the pipeline's own MLflow run shows: the report of its test stage, and the policies that it made or reused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.stages.contract import StageContext
from tests.support.fake_stages import FakeStages


def write_report(context: StageContext) -> None:
    """Writes what the real stage writes for people."""
    (context.out / "report.html").write_text("<h1>Report</h1>")
    (context.out / "report.md").write_text("# Report")
    (context.out / "figures").mkdir()
    (context.out / "figures" / "curves.png").write_bytes(b"png")


def test_the_report_and_the_policies_are_with_the_run_that_people_compare(output: Path) -> None:
    from mlflow import MlflowClient
    from prefect import flow

    from softgrpo.flows.pipeline import execute

    fakes = FakeStages(before={"test": write_report})

    @flow(name="trial")
    def trial() -> None:
        execute(fakes.nodes(), ExperimentConfig(), output=output)

    trial()
    trial()  # all of it reused
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("softgrpo/ml-100k").experiment_id
    query, order = "tags.stage = 'pipeline'", ["attributes.start_time ASC"]
    found = client.search_runs([experiment], query, order_by=order)
    first, second = (client.get_run(run.info.run_id) for run in found)
    for run in (first, second):
        shown = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert shown == {"comparison.json", "config.yaml", "figures", "report.html", "report.md"}
        assert [artifact.path for artifact in client.list_artifacts(run.info.run_id, "figures")] == [
            "figures/curves.png"
        ]

    def names(models: list[Any]) -> list[str]:
        return [client.get_logged_model(model.model_id).name for model in models]

    assert (names(first.inputs.model_inputs), names(first.outputs.model_outputs)) == ([], ["sft"])
    assert (names(second.inputs.model_inputs), names(second.outputs.model_outputs)) == (["sft"], [])


@pytest.mark.parametrize(
    ("end", "status"), [(ConfigError("x", "y", "z", code="CONFIG-000"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_that_ended_early_still_tells_what_it_reused(end: BaseException, status: str, output: Path) -> None:
    from mlflow import MlflowClient
    from prefect import flow

    from softgrpo.flows.pipeline import execute

    def broken(context: StageContext) -> None:
        raise end

    @flow(name="trial")
    def trial(fakes: FakeStages, until: int) -> None:
        execute(fakes.nodes()[:until], ExperimentConfig(), output=output)

    trial(FakeStages(), 2)
    whole = FakeStages(before={"sft": broken})
    with pytest.raises(type(end)):
        trial(whole, len(whole.nodes()))
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("softgrpo/ml-100k").experiment_id
    (failed,) = client.search_runs([experiment], f"tags.stage = 'pipeline' and attributes.status = '{status}'")
    reused = [node.name for node in whole.nodes()[:2]]
    assert failed.data.tags["reused"].split() == reused
    assert all(f"stage_run.{name}" in failed.data.tags for name in reused)
    note = failed.data.tags["mlflow.note.content"]
    assert note.startswith("**The run failed.** x. Y. Z.") == (status == "FAILED")
