"""What Prefect shows of a long stage: how far it is, and what trainers and recallers say. On a real server."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import TrainingError
from softgrpo.pipeline.run import RunResult
from softgrpo.reporting import ProgressBar
from softgrpo.stages.contract import StageContext
from softgrpo.tasks.running.bar_words import duration, in_words
from tests.support.fake_stages import FakeStages

PATIENCE_SECONDS = 30.0
STEPS = 40


def work(context: StageContext) -> None:
    """Takes a second, with a bar, curves, lines of this package and a warning of a library."""
    for step in ProgressBar(range(STEPS), desc="SFT", unit="step", delay=0.0, mininterval=0.0):
        context.reporter.metrics({"kl": 1 / (step + 1), "reward": 0.25}, step)
        time.sleep(0.025)
    logging.getLogger("softgrpo.data").info("a line of ours")
    logging.getLogger("transformers.modeling").warning("a warning of transformers")
    logging.getLogger("some.library").warning("a warning of a library")
    logging.getLogger("some.library").info("chatter")


@pytest.fixture
def go(output: Path) -> Callable[[FakeStages], str]:
    """Runs a plan once, which may fail, and returns the id of the flow run."""
    from prefect import flow
    from prefect.runtime import flow_run

    from softgrpo.flows.pipeline import execute

    found: list[str] = []

    @flow(name="trial")
    def trial(fakes: FakeStages) -> RunResult:
        found.append(str(flow_run.id))
        return execute(fakes.nodes(), ExperimentConfig(), output=output)

    def run(fakes: FakeStages) -> str:
        with suppress(TrainingError):
            trial(fakes)
        return found[-1]

    return run


def progress_artifacts(flow_run: str) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[uuid.UUID(flow_run)]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return [artifact for artifact in found if artifact.type == "progress"]


def lines(flow_run: str, last: str) -> list[str]:
    """Returns the log of a flow run, which arrives some seconds later, once a line is there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[uuid.UUID(flow_run)]))
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        with get_client(sync_client=True) as client:
            found = [log.message for log in client.read_logs(log_filter=wanted, limit=200)]
        if any(last in line for line in found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.5)


def test_a_long_stage_shows_how_far_it_is(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.tasks.running.progress_page.SECONDS_BEFORE_FIRST", 0.1)
    monkeypatch.setattr("softgrpo.tasks.running.progress_page.SECONDS_BETWEEN_UPDATES", 0.1)
    sent: list[tuple[float, str]] = []
    from softgrpo.tasks.running.progress_page import ProgressPage

    send = ProgressPage._send
    monkeypatch.setattr(
        ProgressPage,
        "_send",
        lambda page, percent, text: (sent.append((percent, text)), send(page, percent, text)),
    )
    flow_run = go(FakeStages(before={"sft": work}))
    (artifact,) = progress_artifacts(flow_run)
    assert artifact.key == "progress-sft"
    assert artifact.data == 100.0 and artifact.description == "done"
    assert artifact.task_run_id is not None
    percents = [percent for percent, _ in sent]
    assert len(percents) > 3 and percents == sorted(percents) and 0 < percents[0] < 100
    assert all(re.fullmatch(rf"SFT: step \d+ of {STEPS}, about [01] s left", text) for _, text in sent[:-1])


def test_a_short_stage_sends_nothing(go: Any) -> None:
    assert progress_artifacts(go(FakeStages(before={"sft": work}))) == []


def test_a_failed_stage_stays_where_it_was(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.tasks.running.progress_page.SECONDS_BEFORE_FIRST", 0.1)
    monkeypatch.setattr("softgrpo.tasks.running.progress_page.SECONDS_BETWEEN_UPDATES", 0.1)

    def fail(context: StageContext) -> None:
        work(context)
        raise TrainingError("loss is nan", "it must be finite", "Lower the learning rate", code="TRAINING-000")

    (artifact,) = progress_artifacts(go(FakeStages(before={"sft": fail})))
    assert 0 < artifact.data <= 100 and artifact.description != "done"


def test_a_server_that_does_not_take_it_is_no_reason_to_end(
    go: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("softgrpo.tasks.running.progress_page.SECONDS_BEFORE_FIRST", 0.1)
    monkeypatch.setattr("softgrpo.tasks.running.progress_page.SECONDS_BETWEEN_UPDATES", 0.1)

    def refuse(*_: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr("softgrpo.tasks.running.progress_page.create_progress_artifact", refuse)
    with caplog.at_level(logging.WARNING, "softgrpo.reporting"):
        assert progress_artifacts(go(FakeStages(before={"sft": work}))) == []
    assert "does not show how far this is: nobody there" in caplog.text


def test_the_runs_log_has_what_trainers_recallers_and_libraries_say(go: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="transformers")  # a benchmark of another test may have silenced it
    found = lines(go(FakeStages(before={"sft": work})), "a warning of a library")
    for line in ("a line of ours", "a warning of transformers", "a warning of a library", "sft: running"):
        assert found.count(line) == 1, found
    assert [line for line in found if line.startswith(f"step {STEPS - 1}: kl 0.025, reward 0.25")]
    assert "chatter" not in found


def test_words_of_a_bar() -> None:
    half = {"n": 1200, "total": 2400, "initial": 0, "elapsed": 600.0, "rate": 2.0, "prefix": "SFT: ", "unit": "step"}
    said = in_words(half | {"postfix": "loss=0.5312, eval_ndcg_best_reading=0.0418"})
    assert said == "SFT: step 1,200 of 2,400, loss 0.5312, validation NDCG 0.0418, about 10 min left"
    # as long as no rate is known, that of all that was done; a resumed run has not done what it began with
    resumed = half | {"rate": None, "initial": 600, "postfix": None}
    assert in_words(resumed) == "SFT: step 1,200 of 2,400, about 20 min left"
    assert in_words(half | {"n": 0, "rate": None, "prefix": "", "postfix": ""}) == "step 0 of 2,400"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.4, "89 s"), (90.0, "2 min"), (3600.0, "60 min"), (5400.0, "1 h 30 min"), (7260.0, "2 h 1 min")],
)
def test_times_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
