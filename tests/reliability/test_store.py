"""The store is moved, full, used twice at once, or its clock goes back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from softgrpo.flows.services.control import Services
from tests.reliability.runs import MARK, NODES, Problem, Tracked, digests, fill, stages_run, until
from tests.support.warm import COMMAND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAY_SECONDS = 86_400
AHEAD = f"""
import time
_true = time.time
time.time = lambda: _true() + {DAY_SECONDS}
{COMMAND}
"""
"""The command, in a process whose clock is a day ahead."""


def test_the_store_is_moved(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("moved")
    problem.run()
    before = digests(problem.output)
    moved = replace(problem, output=problem.output.parent / "far" / "away it is")
    moved.output.parent.mkdir()
    problem.output.rename(moved.output)
    shutil.rmtree(
        next(moved.output.glob("stages/sft-*/"))
    )  # this one comes from MLflow's copy, which must have moved too
    assert stages_run(moved.run()) == []
    assert digests(moved.output) == before
    assert not problem.output.exists()


def test_two_identical_runs_at_once_train_once(make_problem: Callable[..., Problem], services: Services) -> None:
    problem = make_problem("twins", services)
    both = [problem.start(), problem.start()]
    ran = [stages_run(run.end()) for run in both]
    assert sorted([*ran[0], *ran[1]]) == sorted(NODES)
    assert Tracked(problem).committed() == sorted(NODES)
    assert Tracked(problem).states("pipeline") == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize("finished_here", [False, True], ids=["here", "mlflow"])
def test_the_disk_is_full_during_a_commit(
    finished_here: bool, make_problem: Callable[..., Problem], small_disk: Path
) -> None:
    """While the stage's files are written on this machine, and while they are copied to MLflow's folder."""
    problem = replace(make_problem("full", own_prefect=True), output=small_disk / "output")
    if finished_here:
        run = problem.start(stage="sft", frozen_at=MARK)
        run.frozen()
        (checkpoints,) = problem.output.glob("stages/.work/sft-*")
        shutil.rmtree(checkpoints)  # which the run does next: it would make room again
    else:
        run = problem.start(stage="sft")
        run.freeze_at("stages/.staging/sft-*/*")
    filler = fill(small_disk)
    run.go_on()
    said = run.end(1)
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("softgrpo: no space is left on the disk") and "Make room" in last
    assert [line for line in said.splitlines() if "No space left" in line or "rror" in line] == []
    filler.unlink()
    uri = f"sqlite:///{problem.output / 'mlflow.db'}"
    assert Tracked(problem, uri).committed() == sorted(until("check"))
    said = problem.run(stage="sft")
    assert stages_run(said) == ([] if finished_here else ["sft"])
    assert ("now published to MLflow" in said) == finished_here
    assert ("resuming from checkpoint-" in said) != finished_here
    assert Tracked(problem, uri).committed() == sorted(until("sft"))


def test_the_clock_is_set_back(make_problem: Callable[..., Problem], services: Services) -> None:
    """A clock that was a day ahead: later commits seem to be earlier ones."""
    problem = make_problem("clock", services)
    problem.run(stage="sft", program=AHEAD)
    tracked = Tracked(problem)
    (early,) = tracked.runs("tags.node = 'sft'")
    assert early.info.end_time > (time.time() + DAY_SECONDS / 2) * 1000
    assert stages_run(problem.run("--force", "sft", stage="sft")) == ["sft"]
    (late,) = [run for run in tracked.runs("tags.node = 'sft'") if run.info.run_id != early.info.run_id]
    assert late.info.end_time < early.info.end_time
    shutil.rmtree(
        next(services.output.rglob(f"*{early.data.tags['model_id']}*"))
    )  # of the two only the later one is whole
    elsewhere = replace(problem, output=problem.output.with_name("elsewhere"))
    said = elsewhere.run(stage="sft")
    assert stages_run(said) == []
    assert f"sft: reused from MLflow run {late.info.run_id}" in said
    assert digests(elsewhere.output) == digests(problem.output)
