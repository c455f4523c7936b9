"""The README's commands that make several runs, `softgrpo tune`, `multi-recaller` and `ablate`, on a small subset of real data."""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from tests.documents.documented import documented
from tests.support.warm import COMMAND, WarmProcess, run_warm

ROOT = Path(__file__).parents[2]
LESS = ("--evaluation.baselines", "cem", "--prompt.history_items", "0", "--prompt.top_items", "0")
"""What is not shown here and would take long."""
SMALL = {
    "tune": ("--trials", "2", *LESS),
    "multi-recaller": ("--pools", "EASE,SASRec", "EASE,Text", *LESS),
    "ablate": LESS,
}
CHECKPOINT = "stages/.work/grpo-*/checkpoints/checkpoint-*/trainer_state.json"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def _one_prefect_for_all(prefect_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_address)


def softgrpo(folder: Path, *words: str) -> tuple[str, str]:
    """Runs the command; returns what it printed and what it logged."""
    done = run_warm([*words, "--output", str(folder)], ROOT, os.environ)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_the_commands_share_what_is_stored(tmp_path: Path) -> None:
    """The README's lines, with the preset debug and less of what takes long."""
    lines = {line.split()[1]: line.replace(" full ", " debug ").split()[1:] for line in documented("several")}
    assert lines.keys() == SMALL.keys()
    tune, pools, ablate = ([*lines[name], *SMALL[name]] for name in ("tune", "multi-recaller", "ablate"))

    told, log = softgrpo(tmp_path, *tune)
    assert log.count("recall-EASE: running") == log.count("sft: running") == log.count("test: running") == 1
    assert log.count("grpo: running") == 2
    assert "Best on validation windows" in told and "SofT-GRPO multi" in told
    (command,) = [line for line in told.splitlines() if line.startswith("softgrpo run ml-100k debug tiny ")]

    _, log = softgrpo(tmp_path, *shlex.split(command)[1:])  # what it says can be run again is what it ran
    assert log.count(": running") == 0

    told, log = softgrpo(tmp_path, *pools)
    assert log.count("split: running") == log.count("recall-EASE: running") == 0
    assert log.count("grpo: running") == log.count("test: running") == 2
    assert "EASE-Text: SofT-GRPO multi" in told
    table = pd.read_parquet(next(tmp_path.glob("mlartifacts/**/comparison.parquet")))
    assert set(table["run"]) == {"EASE-SASRec", "EASE-Text"}
    rows = table.set_index("method")
    assert rows.loc["EASE-SASRec/EASE", "ndcg@10"] == rows.loc["EASE-Text/EASE", "ndcg@10"]

    told, log = softgrpo(
        tmp_path, *ablate
    )  # as it is was the first trial, and what comes before SFT is that of all variants
    assert log.count("data: running") == log.count("recall-EASE: running") == 0
    assert log.count("sft: running") == 1 and log.count("grpo: running") == 3
    assert "without SofT-GRPO: SofT-GRPO multi" in told


def test_kill_9_in_a_trial_costs_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    small = ("--train.evaluations", "4", "--train.max_train_windows", "32", "--data.max_users", "40")
    words = ("tune", "ml-100k", "debug", "tiny", "--trials", "2", "--no-final", *small)
    log = tmp_path / "log"
    killed = WarmProcess(COMMAND, [*words, "--output", str(tmp_path)], ROOT, os.environ, log)
    limit = time.monotonic() + 600
    # the second trial, in the middle: its first checkpoint is there
    while "trial 0: validation" not in log.read_text() or not any(tmp_path.glob(CHECKPOINT)):
        assert killed.poll() is None and time.monotonic() < limit, log.read_text()
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    said = log.read_text()
    assert said.count("grpo: running") == 2 and "trial 1: validation" not in said

    _, log_again = softgrpo(tmp_path, *words)
    assert log_again.count(": running") == 1 and "resuming from checkpoint-" in log_again
    table = pd.read_parquet(next(tmp_path.glob("mlartifacts/**/trials.parquet")))
    assert list(table["state"]) == ["complete", "fail", "complete"]
    assert list(table["retry_of"]) == [-1, -1, 1]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        states = database.execute("select name, status from runs").fetchall()
    assert "RUNNING" not in {state for _, state in states}
    trials = [(name.partition(":")[0], status) for name, status in states]
    assert ("trial 1", "KILLED") in trials and ("trial 2", "FINISHED") in trials
