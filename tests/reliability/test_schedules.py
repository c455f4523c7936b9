"""Schedules on real servers: they start runs by themselves, and registering the deployments again leaves them alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from softgrpo.flows.services.control import Services
from softgrpo.flows.services.registration import ADDED_SLUGS
from tests.reliability.conftest import order
from tests.reliability.runs import RECALLERS, Api, Problem, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 150.0
"""A minute until the schedule is due, and then what any run takes to start on a busy machine."""


def test_a_schedule_starts_a_run_by_itself(make_problem: Callable[..., Problem], services: Services) -> None:
    problem, api = make_problem("scheduled", services), Api(services)
    path = f"deployments/{api.deployment('data')}/schedules"
    parameters = {
        "dataset": problem.dataset,
        "recallers": RECALLERS,
        "overrides": problem.settings(),
        "output": str(problem.output),
    }
    every_minute = {"schedule": {"cron": "* * * * *"}, "active": True, "parameters": parameters}
    (schedule,) = api.ask("POST", path, [every_minute])

    def started() -> dict[str, Any] | None:
        runs = api.ask("POST", "flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC", "limit": 200})
        ours = (run for run in runs if run["parameters"].get("dataset") == problem.dataset)
        return next((run for run in ours if run["start_time"] is not None), None)

    try:
        run = wait_until(started, "the schedule starts a run", SECONDS)
    finally:
        api.ask("DELETE", f"{path}/{schedule['id']}")
    assert run["auto_scheduled"]
    assert api.end(run["id"]) == "COMPLETED"
    assert {problem.dataset, "tiny", "stage"} <= set(api.ask("GET", f"flow_runs/{run['id']}")["tags"])
    assert not [line for line in order("start", services.output).splitlines() if "bulk DML" in line]


def test_registering_again_keeps_schedules(services: Services) -> None:
    api = Api(services)
    path = f"deployments/{api.deployment('full')}/schedules"

    def schedules() -> dict[str, dict[str, Any]]:
        return {schedule["id"]: schedule for schedule in api.ask("GET", path)}

    (weekly,) = schedules().values()
    assert (weekly["slug"], weekly["active"]) == ("weekly", False)
    yearly = {"schedule": {"cron": "0 4 1 1 *", "timezone": "Europe/Berlin"}, "active": True}
    (mine,) = api.ask("POST", path, [yearly])
    try:
        moved = {"schedule": {"cron": "30 5 * * 2", "timezone": "UTC"}, "active": True}
        api.ask("PATCH", f"{path}/{weekly['id']}", moved)
        before = schedules()
        order("deploy", services.output)
        assert schedules() == before
        assert {schedule["active"] for schedule in before.values()} == {True}
        assert sorted(schedule["schedule"]["cron"] for schedule in before.values()) == ["0 4 1 1 *", "30 5 * * 2"]
        api.ask("DELETE", f"{path}/{weekly['id']}")
        order("deploy", services.output)
        assert schedules() == {mine["id"]: mine}  # what a user deleted stays deleted
        (variable,) = api.ask("POST", "variables/filter", {"variables": {"name": {"any_": [ADDED_SLUGS]}}})
        api.ask("DELETE", f"variables/{variable['id']}")
        order("deploy", services.output)
        (added,) = [schedule for schedule in schedules().values() if schedule["id"] != mine["id"]]
        assert (added["slug"], added["active"], added["schedule"]["cron"]) == ("weekly", False, "0 3 * * 1")
    finally:
        api.ask("DELETE", f"{path}/{mine['id']}")


def seconds_of(api: Api, flow_run: str) -> float:
    """Returns how long a failed run was running."""
    states = api.ask("GET", f"flow_run_states/?flow_run_id={flow_run}")
    times = {state["name"]: datetime.fromisoformat(state["timestamp"]) for state in states}
    return (times["Failed"] - times["Running"]).total_seconds()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"dataset": "unheard-of", "overrides": {}}, ["unheard-of.inter", "parameter data_path", "SOFTGRPO_DATA="]),
        ({"config": "no-such.yaml"}, ["config = no-such.yaml", "softgrpo config"]),
        ({"recallers": ["BPR", "SASRecc"]}, ["Recaller 'SASRecc'", "Did you mean 'SASRec'?"]),
        ({"overrides": {"sft.learning": 1}}, ["Setting 'sft.learning'", "Did you mean 'sft.learning_rate'?"]),
    ],
)
def test_a_run_that_cannot_work_is_refused_within_five_seconds(
    parameters: dict[str, Any], words: list[str], make_problem: Callable[..., Problem], services: Services
) -> None:
    problem, api = make_problem("refused", services), Api(services)
    flow_run = api.start(problem, **parameters)
    assert api.end(flow_run) == "FAILED"
    message = api.ask("GET", f"flow_runs/{flow_run}")["state"]["message"]
    assert [word for word in words if word not in message] == []
    assert seconds_of(api, flow_run) < 5.0
    assert not (problem.output / "stages").exists()
