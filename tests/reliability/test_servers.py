"""Servers that stop, restart, lose their database or are another kind of database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from softgrpo.flows.services.control import Services, find_services
from tests.reliability.conftest import order
from tests.reliability.runs import (
    MARK,
    NODES,
    Api,
    Problem,
    Tracked,
    digests,
    free_port,
    has_checkpoint,
    stages_run,
    until,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OUTAGE_SECONDS = 20.0
LONG_TRAINING = {"sft.num_train_epochs": 200}
"""Longer than the curves wait before they are sent, so that training meets the silent server."""


def stop_mlflow_for_a_while(services: Services) -> None:
    services.supervisor("stop", "mlflow")
    time.sleep(OUTAGE_SECONDS)
    services.supervisor("start", "mlflow")


def curves(problem: Problem, tracked: Tracked, node: str, name: str) -> tuple[list[float], list[float]]:
    """Returns the steps of a curve as the stage wrote them down and as MLflow has them."""
    payload = next(path for path in (problem.output / "stages").glob(f"{node}-*") if path.is_dir())
    written = json.loads((payload / "curves.json").read_text(encoding="utf-8"))[name]["step"]
    (run,) = tracked.runs(f"tags.node = '{node}'")
    return written, [float(point.step) for point in tracked.client.get_metric_history(run.info.run_id, name)]


def test_mlflow_is_gone_for_20_seconds_during_training(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    problem = make_problem("outage", services)
    run = problem.start(stage="sft", more=LONG_TRAINING)
    run.freeze_at_checkpoint("sft")
    services.supervisor("stop", "mlflow")
    run.go_on()
    time.sleep(OUTAGE_SECONDS)
    assert "sft" not in digests(problem.output), "it had ended before it could miss the server"
    services.supervisor("start", "mlflow")
    said = run.end()
    assert stages_run(said) == until("sft")
    assert Tracked(problem).committed() == sorted(until("sft"))
    assert set(Tracked(problem).states("sft")) == {"FINISHED"}
    written, arrived = curves(problem, Tracked(problem), "sft", "loss")
    assert arrived == written and len(written) > 10  # no point of the curve was lost


def test_mlflow_is_gone_for_20_seconds_during_a_commit(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    problem = make_problem("commit", services)
    run = problem.start(stage="sft", frozen_at=MARK)
    run.frozen()
    assert Tracked(problem).committed() == sorted(until("check"))
    services.supervisor("stop", "mlflow")
    run.go_on()
    time.sleep(OUTAGE_SECONDS)
    services.supervisor("start", "mlflow")
    run.end()
    assert Tracked(problem).committed() == sorted(until("sft"))
    assert Tracked(problem).states("sft") == ["FINISHED"]
    elsewhere = replace(problem, output=problem.output.with_name("elsewhere"))
    assert stages_run(elsewhere.run(stage="sft")) == []  # what was uploaded is whole
    assert digests(elsewhere.output) == digests(problem.output)


def test_mlflow_is_gone_for_longer_than_its_client_waits(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    problem = make_problem("long-outage", services)
    problem.run(stage="check")
    run = problem.start(stage="sft", environment={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}, frozen_at=MARK)
    run.frozen()
    services.supervisor("stop", "mlflow")
    run.go_on()
    wait_until(lambda: "sft: tried again in 15 s" in run.said(), "it is tried again")
    assert run.process.poll() is None
    services.supervisor("start", "mlflow")
    said = run.end()
    assert stages_run(said) == ["sft"]  # trained once; what is tried again is the upload
    assert "now published to MLflow" in said and "Traceback" not in said
    assert Tracked(problem).committed() == sorted(until("sft"))
    problem.run(stage="sft")
    assert set(Tracked(problem).states("sft")) == {"KILLED", "FINISHED"}  # the first, of which MLflow heard no end


def test_prefect_is_restarted_during_a_run(make_problem: Callable[..., Problem], services: Services) -> None:
    problem, api = make_problem("restart", services), Api(services)
    flow_run = api.start(problem, "sft")
    wait_until(lambda: has_checkpoint(problem.output, "sft"), "a checkpoint", pause=0.01)
    services.supervisor("restart", "prefect")
    order("start", services.output)  # waits until it answers
    assert api.end(flow_run) == "COMPLETED"
    assert Tracked(problem).committed() == sorted(until("sft"))


def test_prefects_database_is_lost(make_problem: Callable[..., Problem], services: Services) -> None:
    problem, api = make_problem("lost", services), Api(services)
    problem.run(stage="data")
    services.supervisor("stop", "worker")
    services.supervisor("stop", "prefect")
    for path in (services.output / "prefect").glob("prefect.db*"):
        path.unlink()
    services.supervisor("start", "prefect")
    order("start", services.output)
    order("deploy", services.output)
    api.open()
    flow_run = api.start(problem, "data")
    assert api.end(flow_run) == "COMPLETED"
    assert stages_run(api.lines(flow_run)) == []


def test_another_machine_needs_the_address_of_mlflow_and_nothing_else(
    make_problem: Callable[..., Problem], services: Services
) -> None:
    problem = make_problem("travelled", services)
    problem.run()
    address = {"MLFLOW_TRACKING_URI": services.addresses["MLFLOW_TRACKING_URI"]}
    elsewhere = replace(problem, output=problem.output.with_name("elsewhere"), services=None, prefect=None)
    assert stages_run(elsewhere.run(environment=address)) == []
    assert digests(elsewhere.output) == digests(problem.output)
    assert set(digests(elsewhere.output)) == set(NODES)
    assert not (elsewhere.output / "mlflow.db").exists()


def test_postgres_is_the_database_of_both_servers(
    make_problem: Callable[..., Problem], postgres: str, tmp_path: Path
) -> None:
    output = tmp_path / "services"
    output.mkdir()
    databases = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{postgres}/prefect",
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{postgres}/mlflow",
    }
    ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    try:
        order("start", output, databases | ports | {"PREFECT_WORKER_QUERY_SECONDS": "2", "OMP_NUM_THREADS": "1"})
        order("deploy", output, databases)
        services = find_services(output)
        problem, api = make_problem("elephant", services), Api(services)
        first = api.start(problem, "sft")
        assert api.end(first) == "COMPLETED"
        assert Tracked(problem).committed() == sorted(until("sft"))
        elsewhere = replace(problem, output=problem.output.with_name("elsewhere"))
        assert stages_run(elsewhere.run(stage="sft")) == []
        assert not list(output.rglob("*.db"))  # neither server fell back to a file
    finally:
        order("stop", output)
