"""Errors that the logs of services repeat: found, counted from the start on, told by whoever looks at running services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softgrpo.flows.command.doctor import as_text, examine
from softgrpo.flows.services.control import main
from softgrpo.flows.services.logs import log_ends, repeated_errors, repeated_messages
from softgrpo.flows.services.places import Services

SCHEDULER = """\
{time} | ERROR   | docket.dependencies - ↩ [    {took}ms] schedule_deployments(){{schedule_deployments}}
Traceback (most recent call last):
  File "scheduler.py", line 273, in schedule_deployments
    inserted_runs = await insert()
KeyError: 'the first'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "hybrid.py", line 1851, in prop
    raise exc.InvalidRequestError(
sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement
[SQL: INSERT INTO flow_run]
(Background on this error at: an address)
"""
MESSAGE = "sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement"
TWICE = SCHEDULER.format(time="02:33:11.473", took=20) + SCHEDULER.format(time="02:34:11.480", took=7)


def test_an_error_that_comes_again_is_counted_by_its_exception() -> None:
    quiet = "02:33:00.001 | INFO    | prefect.server - all is well\n"
    assert repeated_messages(quiet + TWICE + quiet) == {MESSAGE: 2}
    assert repeated_messages(SCHEDULER.format(time="02:33:11.473", took=20)) == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("02:33:1{} | ERROR   | prefect.server.events - queue {} is full", "queue 0 is full"),
        ("2026/11/28 02:33:1{} ERROR mlflow.server: cannot read run {}", "cannot read run 0"),
        ("ERROR:    [Errno {}] cannot bind", "[Errno 0] cannot bind"),
        ("[2026-11-28 02:33:1{} +0000] [17{}] [CRITICAL] worker timeout", "worker timeout"),
    ],
)
def test_what_prefect_mlflow_and_uvicorn_write(line: str, message: str) -> None:
    """Times, numbers and ids differ from one record to the next."""
    text = "\n".join(line.format(number, number) for number in range(3))
    assert repeated_messages(text) == {message: 3}


def test_what_is_no_error_is_not_told() -> None:
    harmless = ["02:33:11.4 | WARNING | prefect - slow", "INFO:  GET /api/ERROR 404", "ERRORS are rare here"]
    assert repeated_messages("\n".join(harmless * 3)) == {}


def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Returns services that seem to run, whose log of an earlier start repeats an error."""
    services = Services(tmp_path, 4311, 5311)
    services.folder.mkdir()
    (services.folder / "prefect.log").write_text(TWICE, encoding="utf-8")
    record = {**services.place, "log_ends": log_ends(services.folder)}
    (services.folder / "ports.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(Services, "is_running", lambda self: True)
    monkeypatch.setattr("softgrpo.flows.services.control._bring_up", lambda services: None)
    return services


def test_records_of_an_earlier_start_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = running(tmp_path, monkeypatch)
    starts = log_ends(services.folder)
    assert repeated_errors(services.folder, starts) == []
    log = services.folder / "prefect.log"
    log.write_text(TWICE * 2, encoding="utf-8")
    (error,) = repeated_errors(services.folder, starts)
    assert (error.message, error.count, error.log) == (MESSAGE, 2, log)
    log.write_text(TWICE[:-1], encoding="utf-8")  # it was put aside for being long, and is new
    assert [error.count for error in repeated_errors(services.folder, starts)] == [2]


def test_services_and_doctor_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    services = running(tmp_path, monkeypatch)
    assert main(["start", "--output", str(tmp_path)]) == 0
    assert "repeats" not in capsys.readouterr().out
    (services.folder / "prefect.log").write_text(TWICE * 2, encoding="utf-8")
    warning = (
        f"warning: prefect.log repeats an error, 2 times since the start: {MESSAGE} ({services.folder}/prefect.log)"
    )
    assert main(["start", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == warning
    assert as_text(examine(None, tmp_path)).splitlines()[-1] == warning
