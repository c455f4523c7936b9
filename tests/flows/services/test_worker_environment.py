"""Where a worker finds data: it is told at the start, and another shell that means something else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from softgrpo.flows.services.control import main
from softgrpo.flows.services.places import ROOT, Services
from softgrpo.flows.services.record import write_record
from softgrpo.flows.services.worker_environment import worker_data_paths, worker_datasets


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Services that seem to run, and were started in a shell that named a data path and an endpoint of the hub."""
    for dataset in ("mine", "yours"):
        folder = tmp_path / "data" / dataset
        folder.mkdir(parents=True)
        (folder / f"{dataset}.inter").write_text("user_id:token\titem_id:token\n", encoding="utf-8")
    services = Services(tmp_path / "output", 4311, 5311)
    services.folder.mkdir(parents=True)
    monkeypatch.setenv("SOFTGRPO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:2")
    write_record(services)
    monkeypatch.setattr(Services, "is_running", lambda self: True)
    monkeypatch.setattr("softgrpo.flows.services.control._bring_up", lambda services: None)
    return services


def start(services: Services) -> int:
    return main(["start", "--output", str(services.output)])


def test_the_start_tells_what_the_worker_finds(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = services.output.parent / "data"
    for name in ("SOFTGRPO_DATA", "HF_ENDPOINT"):
        monkeypatch.delenv(name)  # another shell that names nothing: the worker keeps what it has
    assert start(services) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data ")]
    assert line.startswith(f"data     mine, ml-100k, yours in {data}, {ROOT / 'data'}, ")
    assert line.endswith("(the first is SOFTGRPO_DATA)")
    assert worker_data_paths(None)[0] == ROOT / "data"
    assert "mine" not in worker_datasets(None)


@pytest.mark.parametrize(
    ("name", "value", "shown", "theirs"),
    [
        ("SOFTGRPO_DATA", "/elsewhere", "SOFTGRPO_DATA=/elsewhere of this shell", "with SOFTGRPO_DATA={data}"),
        ("HF_ENDPOINT", "http://127.0.0.1:3", "HF_ENDPOINT of this shell", "with another HF_ENDPOINT"),
        ("PREFECT_API_KEY", "secret", "PREFECT_API_KEY of this shell", "with no PREFECT_API_KEY"),
    ],
)
def test_a_second_start_in_another_environment_is_refused(
    services: Services,
    name: str,
    value: str,
    shown: str,
    theirs: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert start(services) == 0
    monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert start(services) == 1
    refusal = capsys.readouterr().err
    assert shown in refusal and theirs.format(data=services.output.parent / "data") in refusal
    assert f"make stop OUTPUT={services.output}" in refusal and f"or unset {name}." in refusal
    assert "secret" not in refusal and "secret" not in (services.folder / "ports.json").read_text(encoding="utf-8")


def test_a_data_path_is_the_same_however_it_is_written(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(services.output.parent)
    monkeypatch.setenv("SOFTGRPO_DATA", "data")
    assert start(services) == 0
    assert services.environment()["SOFTGRPO_DATA"] == str(services.output.parent / "data")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # what `make env` exports; the worker has its own
    assert start(services) == 0


def test_services_of_an_earlier_version_have_no_environment_to_compare(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (services.folder / "ports.json").write_text('{"PREFECT_PORT": 4311, "MLFLOW_PORT": 5311}', encoding="utf-8")
    monkeypatch.setenv("SOFTGRPO_DATA", "/elsewhere")
    assert start(services) == 0
    assert "SOFTGRPO_DATA was not set" in capsys.readouterr().out
