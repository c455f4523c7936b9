"""What is sent to MLflow, without MLflow."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest

from softgrpo.tasks.tracking.runs import FLUSH_POINTS, PARAM_CHARACTERS, RunReporter, flatten, git_commit, metric_name


class FakeRuns:
    def __init__(self) -> None:
        self.sent: list[list[tuple[str, float, int, int]]] = []

    def points(self, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
        assert run_id == "run"
        self.sent.append(list(points))


def test_flatten_gives_dotted_names_and_texts_within_the_limit() -> None:
    values = {"sft": {"learning_rate": 5e-5, "name": "x"}, "ks": [5, 10], "none": None, "empty": {}, "long": "a" * 7000}
    flat = flatten(values)
    assert flat.pop("long") == "a" * PARAM_CHARACTERS
    assert flat == {"sft.learning_rate": "5e-05", "sft.name": "x", "ks": "[5, 10]", "none": "null", "empty": "{}"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ndcg@10", "ndcg_at_10"),
        ("SofT-GRPO multi/ndcg@10", "SofT-GRPO multi/ndcg_at_10"),
        ("uniform (rrf)", "uniform _rrf_"),
    ],
)
def test_metric_names_are_ones_mlflow_accepts(name: str, expected: str) -> None:
    assert metric_name(name) == expected


def test_curves_are_sent_in_batches_and_none_is_lost() -> None:
    runs = FakeRuns()
    reporter = RunReporter(runs, "run", logging.getLogger("test"))  # type: ignore[arg-type]
    steps = FLUSH_POINTS + 10
    for step in range(steps):
        reporter.metrics({"loss": float(step)}, step)
    assert [len(batch) for batch in runs.sent] == [FLUSH_POINTS]
    reporter.flush()
    assert [(name, value, step) for batch in runs.sent for name, value, _, step in batch] == [
        ("loss", float(step), step) for step in range(steps)
    ]


def test_git_commit_is_none_outside_a_checkout_and_the_commit_inside(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git_commit.cache_clear()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 40


def test_git_commit_is_none_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) is None


def test_the_log_gets_the_newest_values_now_and_then_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr("softgrpo.tasks.tracking.runs.time.monotonic", lambda: now[0])
    reporter = RunReporter(FakeRuns(), "run", logging.getLogger("test"))  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, "softgrpo.curves"):
        for step in range(1, 40):
            now[0] += 1.0
            reporter.metrics({"loss": 1.0 / step, "reward": 0.25}, step)
            if step == 20:
                reporter.metrics({"eval_ndcg": 0.123456789}, step)
        reporter.flush()
        reporter.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "step 16: loss 0.0625, reward 0.25",  # the first more than 15 s behind the start, then behind the line before
        "step 20: eval_ndcg 0.12346",
        "step 32: loss 0.03125, reward 0.25",
        "step 39: loss 0.025641, reward 0.25",
    ]
