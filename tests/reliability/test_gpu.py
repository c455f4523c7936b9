"""The slot for the GPU, on a machine without one: stages say that they would use it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import requests

from softgrpo.flows.services.control import Services
from tests.reliability.conftest import order
from tests.reliability.runs import Command, Problem, digests, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ASKS = "sft: asks for the GPU"
TRAINS = "SFT on "
LONG = {"sft.num_train_epochs": 3000}
LEASE_AND_ROUND_SECONDS = 60 + 15
PRETEND = """
from pathlib import Path
import sys
from softgrpo.flows.runtime.session import begin_prefect
begin_prefect(Path({output!r}))
import softgrpo.tasks.running.gpu
tasks.running.gpu.uses_gpu = lambda node, config: node.stage.name in tasks.running.gpu.LANGUAGE_MODELS
from softgrpo.flows.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command, in a process where the language model's stages say that they use a GPU."""


def start(problem: Problem, more: Mapping[str, Any] | None = None) -> Command:
    """Starts a run up to SFT."""
    return problem.start(stage="sft", more=more, program=PRETEND.format(output=str(problem.output)))


def limit(services: Services) -> dict[str, object]:
    """Returns what Prefect's server says about this machine's slot."""
    address = f"{services.addresses['PREFECT_API_URL']}/v2/concurrency_limits/gpu-{socket.gethostname()}"
    return dict(requests.get(address, timeout=30).json())


@contextmanager
def both(
    make_problem: Callable[..., Problem], services: Services, name: str
) -> Iterator[tuple[Command, Command]]:  # fmt: skip
    """Gives a run in the middle of a long SFT, and one of another output folder, which has come to SFT and waits."""
    problem = make_problem(name, services)
    begun = [start(problem, LONG)]
    try:
        wait_until(lambda: TRAINS in begun[0].said(), "the first run trains")
        begun.append(start(replace(problem, output=problem.output.with_name("other"))))
        first, second = begun
        wait_until(lambda: ASKS in second.said(), "the second run comes to SFT")  # what needs no GPU ran on meanwhile
        time.sleep(5.0)
        assert first.process.poll() is None and "sft" not in digests(first.output)
        assert TRAINS not in second.said()
        yield first, second
    finally:
        for command in begun:
            if command.process.poll() is None:
                command.kill()


def test_one_stage_at_a_time_uses_the_gpu(make_problem: Callable[..., Problem], services: Services) -> None:
    assert limit(services)["limit"] == 1
    with both(make_problem, services, "in-turn") as (first, second):
        assert limit(services)["active_slots"] == 1
        os.killpg(first.process.pid, signal.SIGINT)
        first.end(130)
        assert TRAINS in second.end()
    assert limit(services)["active_slots"] == 0


def test_a_killed_run_gives_the_gpu_back_although_prefect_was_restarted(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    with both(make_problem, services, "killed-on-gpu") as (first, second):
        first.kill()
        services.supervisor("restart", "prefect")
        order("start", services.output)  # waits until it answers
        wait_until(lambda: TRAINS in second.said(), "the second run trains", LEASE_AND_ROUND_SECONDS + 60.0)
        second.end()
    order("deploy", services.output)  # again, which leaves the limit as it is
    assert limit(services)["limit"] == 1 and limit(services)["active_slots"] == 0


def test_without_a_limit_nobody_waits(make_problem: Callable[..., Problem]) -> None:
    """A run with a Prefect server of its own."""
    problem = make_problem("free", own_prefect=True)
    said = start(problem).end()
    assert ASKS not in said and TRAINS in said
    assert "sft" in digests(problem.output)
