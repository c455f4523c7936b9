"""From a CSV of 300 users to a table: the two commands of docs/own-data.md, on a real training of the stage debug."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from softgrpo.config import DataConfig
from softgrpo.data.atomic import read_atomic
from softgrpo.data.locate import locate

LONGEST = 300.0
"""Seconds of one core that the commands may take; on two cores of their own they take no longer by the clock."""


def work() -> float:
    """Returns the seconds of one core that the processes which this one has started and awaited have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_csv_of_300_users_becomes_a_table(tmp_path: Path) -> None:
    """The columns have the names of MovieLens' CSV, the times are texts."""
    ratings = read_atomic(locate(DataConfig(dataset="ml-100k")) / "ml-100k.inter")
    ratings = ratings[ratings["user_id"].astype(int) <= 300]
    times = pd.to_datetime(ratings["timestamp"].astype(int), unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S")
    table = pd.DataFrame({"userId": ratings["user_id"], "movieId": ratings["item_id"], "date": times})
    table.to_csv(tmp_path / "films.csv", index=False)

    def run(command: str) -> str:
        words = [sys.executable, "-m", "softgrpo.flows.cli", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    begin, worked = time.monotonic(), work()
    checked = json.loads(run(f"softgrpo check-data {tmp_path / 'films.csv'} --json"))
    assert (checked["users"], checked["unit"], checked["suggested"]) == (300, "ISO 8601", {})
    small = checked["command"].replace(" full ", " debug ")
    outcome = json.loads(run(f"{small} --recbole_models Pop ItemKNN --output {tmp_path / 'out'} --json"))
    print(f"two commands, {time.monotonic() - begin:.0f} s, of one core {work() - worked:.0f} s")
    assert work() - worked < LONGEST
    assert {row["method"] for row in outcome["rows"]} >= {"Pop", "ItemKNN", "static", "grpo_multi"}
