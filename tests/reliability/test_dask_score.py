"""Users scored on a Dask cluster of two workers: the file of one process, also when a worker or the command is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from softgrpo.flows.services.control import Services
from tests.reliability.runs import ITEMS, ROOT, USERS, Command, Problem, Tracked, fill, wait_until
from tests.reliability.test_dask import Dask, cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["cluster"]

SHARES = "scores/.shares/*/*.parquet"
ASKED = 8_200
"""Users, in nine batches, so that one of eight shares has two; most users are new."""


def write_histories(path: Path) -> Path:
    """Writes six items of each user."""
    draw = random.Random(3)
    users = [f"u{user}" for user in range(USERS)] + [f"new{user}" for user in range(ASKED - USERS)]
    rows = [f"{user},i{item},{step}" for user in users for step, item in enumerate(draw.sample(range(ITEMS), 6))]
    path.write_text("user,item,time\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def ask(make_problem: Callable[..., Problem], services: Services, tmp_path: Path) -> Callable[..., Command]:
    """Trains a small policy; returns what starts `score` with it."""
    problem = make_problem("daskscore", services)
    problem.run(stage="sft", more={"sft.num_train_epochs": 1, "recall.settings": {"BPR": {"epochs": 1}}})
    run_id = Tracked(problem).runs("tags.stage = 'pipeline'")[-1].info.run_id
    history = write_histories(tmp_path / "histories.csv")

    def start(*words: str) -> Command:
        given = ("--history", str(history), "--method", "sft_multi", "--k", "10", "--output", str(problem.output))
        return problem.order("score", run_id, *given, *words)

    return start


def shares_of(folder: Path) -> dict[str, int]:
    """Returns the finished shares beside a file of scores, each with the number of its file on the disk."""
    try:
        return {path.name: path.stat().st_ino for path in folder.glob(SHARES) if not path.name.startswith(".")}
    except FileNotFoundError:  # the job has ended meanwhile
        return {}


def test_a_killed_worker_costs_its_share_and_a_killed_command_nothing(
    ask: Callable[..., Command], cluster: Dask, tmp_path: Path
) -> None:
    alone, together = tmp_path / "alone.parquet", tmp_path / "scores/together.parquet"
    together.parent.mkdir()
    words = ("--out", str(together), "--dask", cluster.address)
    said = ask("--out", str(alone)).end()
    whole = alone.read_bytes()

    run = ask(*words)
    wait_until(lambda: len(shares_of(tmp_path)) >= 2, "two shares", pause=0.005)
    run.kill()
    kept = shares_of(tmp_path)
    assert 2 <= len(kept) < 8 and not together.exists()

    run = ask(*words)
    seen = {(name, number) for name, number in kept.items()}
    wait_until(lambda: len(shares_of(tmp_path)) > len(kept), "another share", pause=0.005)
    cluster.workers[0].kill()
    assert len(shares_of(tmp_path)) < 8, "there was nothing left to take over"
    while run.process.poll() is None:
        seen |= {(name, number) for name, number in shares_of(tmp_path).items() if name in kept}
    again = run.end()
    assert together.read_bytes() == whole
    assert seen == set(kept.items()), "a share that was there was scored again"
    assert again.count("note:") == said.count("note:") > 0 and "Traceback" not in again
    notes = [[line for line in text.splitlines() if "note:" in line] for text in (said, again)]
    assert notes[0] == notes[1]
    assert not any((tmp_path / "scores/.shares").iterdir())


def test_a_disk_that_is_full_at_a_share_keeps_the_others(
    ask: Callable[..., Command], cluster: Dask, small_disk: Path
) -> None:
    together = small_disk / "scores/together.parquet"
    together.parent.mkdir()
    words = ("--out", str(together), "--dask", cluster.address)
    run = ask(*words)
    wait_until(lambda: len(shares_of(small_disk)) >= 2, "two shares", pause=0.005)
    run.process.send_signal(signal.SIGSTOP)
    kept = shares_of(small_disk)
    assert 2 <= len(kept) < 8
    filler = fill(small_disk)
    run.go_on()
    said = run.end(1)
    assert "no space is left on the disk" in said.splitlines()[-1] and "Traceback" not in said
    assert shares_of(small_disk) == kept and not together.exists()

    filler.unlink()
    ask(*words).end()
    alone = small_disk / "alone.parquet"
    ask("--out", str(alone)).end()
    assert together.read_bytes() == alone.read_bytes()


@contextmanager
def worker(cluster: Dask, code: Path) -> Iterator[Path]:
    """Puts a worker with the code of a folder in the place of the cluster's own, and gives its log."""
    for each in cluster.workers:
        each.kill()
        each.wait()
    log = code / "worker.log"
    with log.open("wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)}
        words = ["dask", "worker", cluster.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        process = subprocess.Popen(
            [sys.executable, "-m", *words, "--local-directory", str(code)],
            cwd=code,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        wait_until(lambda: b"Registered to" in log.read_bytes(), "the worker", seconds=60)
        yield log
    finally:
        process.kill()
        process.wait()


def test_a_worker_of_another_version_is_refused(ask: Callable[..., Command], cluster: Dask, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    words = ("--out", str(out), "--dask", cluster.address)
    changed, older = tmp_path / "changed", tmp_path / "older"
    shutil.copytree(ROOT / "softgrpo", changed / "softgrpo", ignore=shutil.ignore_patterns("__pycache__"))
    scoring = changed / "softgrpo/serving/scoring.py"
    scoring.write_text(scoring.read_text().replace("SHOWN = 5", "SHOWN = 6"))
    with worker(cluster, changed):
        said = ask(*words).end(1)
    assert "The worker tcp://" in said and "STORE-049" in said and "Traceback" not in said
    shutil.copytree(changed, older)
    (older / "softgrpo/flows/results/share_worker.py").unlink()
    with worker(replace(cluster, workers=()), older):
        said = ask(*words).end(1)
    assert "share_worker" in said and "STORE-049" in said and "Traceback" not in said
    assert not out.exists()
