"""`softgrpo deploy` calls what `make deploy` calls, and says in one line that no server runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softgrpo.flows.cli import main
from softgrpo.flows.services.control import Services


def test_the_services_of_the_output_folder_get_the_deployments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Services] = []
    monkeypatch.setattr(
        "softgrpo.flows.services.control.deploy", lambda services: asked.append(services) or "Registered."
    )
    monkeypatch.setenv("PREFECT_PORT", "4711")
    assert main(["deploy", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Registered.\n"
    assert main(["deploy", "--output", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == asked[1].addresses
    assert [services.output for services in asked] == [tmp_path, tmp_path]
    assert asked[1].addresses["PREFECT_API_URL"] == "http://127.0.0.1:4711/api"


def test_without_a_server_it_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--output", str(tmp_path / "none")]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert "They must be running, and they are not. Start them: make services OUTPUT=" in shown.err
    assert not (tmp_path / "none").exists()


def test_a_port_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_PORT", "x")
    assert main(["deploy", "--output", str(tmp_path)]) == 2
    assert "MLFLOW_PORT=x" in capsys.readouterr().err
