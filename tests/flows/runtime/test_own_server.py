"""A run's own Prefect server. That it starts, serves and ends is what every run without servers shows (tests/reliability)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from softgrpo.errors import StoreError
from softgrpo.flows.runtime import own_server
from softgrpo.flows.runtime.own_server import OwnServer
from softgrpo.flows.runtime.session import begin_prefect


def test_a_server_that_cannot_start_is_one_readable_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(own_server, "HERE", tmp_path)
    (tmp_path / "tether.py").write_text("raise SystemExit('no room for a database')")
    server = OwnServer(tmp_path)
    with pytest.raises(StoreError, match=r"prefect-server\.log.*\[STORE-012\]"):
        server.wait()
    assert "no room for a database" in (tmp_path / "prefect-server.log").read_text()
    server.stop()


def test_the_server_comes_before_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"})
    with pytest.raises(RuntimeError, match="before Prefect is imported"):  # it is here, see conftest
        begin_prefect(tmp_path)
