"""`softgrpo open RUN`: where a run can be seen, and what a browser gets."""

from __future__ import annotations

import json
import socket
import webbrowser
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.flows.cli import main
from softgrpo.flows.command import open as command
from softgrpo.flows.results.finished import FinishedRun
from softgrpo.flows.results.places import last_line, places_of
from softgrpo.tasks.tracking.liveness import LivenessLocks
from softgrpo.tasks.tracking.runs import LIVENESS_TAG, Runs


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records what a browser would show."""
    pages: list[str] = []

    class Browser:
        def open(self, address: str) -> None:
            pages.append(address)

    monkeypatch.setattr(webbrowser, "get", Browser)
    return pages


def test_a_stored_run(run_id: str, output: Path, opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Its store is a database without pages; the tests' server of Prefect was one that stays."""
    page = output / "reports" / f"{run_id}.html"
    assert main(["open", run_id[:8], "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"report       {page}" and page.is_file()
    assert lines[1].startswith(f"MLflow run   {run_id} in sqlite://")
    prefect = lines[2].removeprefix("Prefect run  ")
    assert "/flow-runs/flow-run/" in prefect and opened == [page.resolve().as_uri(), prefect]
    assert main(["open", run_id, "--print", "--json", "--output", str(output)]) == 0
    places = json.loads(capsys.readouterr().out)
    assert [place["address"] for place in places] == [page.resolve().as_uri(), "", prefect] and len(opened) == 2


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Puts a run in the place of what MLflow would answer; it holds a lock as long as its process lives."""
    locks = LivenessLocks(tmp_path / ".alive")
    run = SimpleNamespace(info=SimpleNamespace(status="FINISHED"), data=SimpleNamespace(tags={}), locks=locks)
    store = SimpleNamespace(runs=Runs(Any, locks))
    monkeypatch.setattr("softgrpo.tasks.tracking.lookup.open_store_of_run", lambda run_id, output: store)
    monkeypatch.setattr("softgrpo.tasks.tracking.lookup.read_run", lambda store, run_id: run)
    return run


STOPPED = FinishedRun(
    "abcdef0123", "n", ExperimentConfig(), {}, "http://mlflow/#/r", datetime(2026, 1, 1, tzinfo=UTC), None, {}
)
"""A run that did not reach its report."""


def test_a_run_with_pages(stored: SimpleNamespace, tmp_path: Path) -> None:
    """Before the stage test there is no report; the page in Prefect comes from a tag, and is opened while its server runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}/runs/1"
        stored.data.tags["prefect page"] = f"http://me:secret@{address}"
        report, mlflow, prefect = places_of(STOPPED, tmp_path)
    assert (report.address, report.text) == ("", "none: the run did not reach the stage test")
    assert mlflow.address == "http://mlflow/#/r" and prefect.address == f"http://{address}"
    ended = places_of(STOPPED, tmp_path)[2]
    start = f"make services OUTPUT={tmp_path} starts that of this output folder"
    assert (ended.address, ended.text) == ("", f"http://{address}, but its server is not running; {start}")
    stored.data.tags.clear()
    assert places_of(STOPPED, tmp_path)[2].text == "none: the run had a server of its own, which ended with it"


def test_a_run_at_work_has_no_report_yet(stored: SimpleNamespace, tmp_path: Path) -> None:
    stored.info.status = "RUNNING"
    with stored.locks.hold() as lock:
        stored.data.tags[LIVENESS_TAG] = lock
        assert places_of(STOPPED, tmp_path)[0].text == "none yet: the run is at work (softgrpo watch abcdef01)"
    assert places_of(STOPPED, tmp_path)[0].text == "none: the run did not reach the stage test"  # it was killed


def test_a_machine_without_a_browser(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none() -> None:
        raise webbrowser.Error("no runnable browser")

    monkeypatch.setattr(webbrowser, "get", none)
    command._open(["http://somewhere"])
    assert "no browser was found" in capsys.readouterr().err


def test_the_line_that_a_run_ends_with() -> None:
    run_id, report = "0123456789abcdef", "/out/reports/x.html"
    local = {"MLflow run": f"{run_id} in sqlite:///x", "report": report}
    assert last_line(run_id, local) == f"run {run_id}: {report} (softgrpo open 01234567)"
    served = local | {"MLflow run": "http://m/#/r"}
    assert last_line(run_id, served) == f"run {run_id}: http://m/#/r (softgrpo open 01234567)"
    assert (
        last_line(run_id, {"MLflow run": "x in sqlite:///x"}) == f"run {run_id}: no page yet (softgrpo open 01234567)"
    )
