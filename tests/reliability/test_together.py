"""Trainings by two processes in the flow, on the CPU: killed with the command in the middle, and gone on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from tests.reliability.runs import Problem, descendants, digests, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOGETHER: dict[str, Any] = {"train.processes": 2, "train.device": "cpu", "sft.num_train_epochs": 4}


def test_two_processes_train_in_the_flow(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("together")
    run = problem.start(stage="sft", more=TOGETHER)
    run.freeze_at_checkpoint("sft")
    both = descendants(run.process.pid, "softgrpo.stages.training_process")
    assert len(both) == 2
    run.kill()
    gone, _ = psutil.wait_procs(both, timeout=30)
    assert len(gone) == 2, "they outlive the command"
    assert "sft" not in digests(problem.output)
    said = problem.run(stage="sft", more=TOGETHER)
    assert "2 processes train together" in said and "resuming from checkpoint-" in said
    assert "Traceback" not in said
    whole = replace(problem, output=problem.output.with_name("whole"))
    assert "resuming" not in whole.run(stage="sft", more=TOGETHER)
    assert digests(problem.output) == digests(whole.output)


def test_a_killed_process_is_one_line(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("lost")
    run = problem.start(stage="sft", more=TOGETHER)
    wait_until(
        lambda: (problem.output / "stages/.work").is_dir() and members(run.process.pid), "two processes", pause=0.01
    )
    members(run.process.pid)[-1].kill()
    said = run.end(1)
    assert "of those that train together ended with code -9" in said and "PROCESS-003" in said
    assert "Traceback" not in said
    assert "sft" not in digests(problem.output)


def members(pid: int) -> list[psutil.Process]:
    """Returns the two processes that train for a command; none while there is one alone."""
    found = descendants(pid, "softgrpo.stages.training_process")
    return found if len(found) == 2 else []
