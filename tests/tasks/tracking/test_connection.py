"""Addresses that do not answer, and what becomes of MLflow's errors."""

from __future__ import annotations

import errno
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, RESOURCE_ALREADY_EXISTS
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

from softgrpo.errors import ConfigError, StoreError
from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.servers.addresses import check_answers, make_line
from softgrpo.tasks.servers.database import DATABASE, file_system, make_database
from softgrpo.tasks.tracking.connection import insert, open_tracking, store_errors, tracking_uri


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_new_database_is_written_ahead_and_one_that_is_there_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it where a model is published

    def mode(output: Path) -> str:
        with closing(sqlite3.connect(output / DATABASE)) as database:
            return str(database.execute("PRAGMA journal_mode").fetchone()[0])

    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    open_tracking(new, "softgrpo/x", LocalStore(new / "stages"))
    assert mode(new) == "wal"
    old.mkdir()
    with closing(sqlite3.connect(old / DATABASE)) as database:
        database.execute("CREATE TABLE mine (number)")
    make_database(old)
    assert mode(old) == "delete"


def test_a_run_in_a_database_is_shown_by_the_services_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    link = open_tracking(tmp_path, "softgrpo/x", LocalStore(tmp_path / "stages")).run_link("abc")
    assert link == f"abc in sqlite:///{tmp_path / DATABASE} (make services OUTPUT={tmp_path} shows it)"
    assert make_line("services", Path(__file__).parents[3] / "outputs") == "make services"
    monkeypatch.chdir(tmp_path)  # where there is no Makefile
    assert make_line("-s env", tmp_path / "outputs") == "softgrpo env"
    assert make_line("services", tmp_path / "other") == f"softgrpo services --output {tmp_path}/other"


def test_a_database_over_a_network_stays_as_sqlite_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nhost:/x /far\\040away nfs4 rw 0 0\n/dev/b /far\\040away/disk xfs rw 0 0\n")
    assert file_system(Path("/home"), mounts) == "ext4"
    assert file_system(Path("/far away/x"), mounts) == "nfs4"
    assert file_system(Path("/far away/disk/x"), mounts) == "xfs"
    assert file_system(Path("/home"), tmp_path / "none") is None
    monkeypatch.setattr("softgrpo.tasks.servers.database.HERE", frozenset({"other"}))
    made = make_database(tmp_path)
    assert made.read_bytes() == b"" and made.stat().st_mode & 0o777 == 0o600  # MLflow fills it


def test_a_database_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("sqlite3.connect", refuse)
    with pytest.raises(StoreError, match=r"mlflow\.db.*unable to open.*--output.*\[STORE-030\]"):
        make_database(tmp_path)


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_a_server_that_is_not_there_is_named_within_seconds(
    scheme: str, closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://127.0.0.1:{closed_port}/db")
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"MLFLOW_TRACKING_URI.*\[STORE-029\]"):
        open_tracking(tmp_path, "softgrpo/x", LocalStore(tmp_path / "stages"))
    assert time.monotonic() - began < 10


def test_a_server_that_accepts_and_says_nothing_is_named_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.tasks.servers.addresses.TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(StoreError, match=r"\[STORE-029\]"):
            check_answers(f"http://127.0.0.1:{silent.getsockname()[1]}", "PREFECT_API_URL")


def test_files_and_local_databases_need_no_answer() -> None:
    check_answers("sqlite:////nowhere/mlflow.db", "MLFLOW_TRACKING_URI")


@pytest.mark.parametrize("address", ["rubbish", "localhost:5000", "me:secret@there:5000"])
def test_an_address_without_a_scheme_is_no_url(address: str) -> None:
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:5000.*\[CONFIG-073\]") as raised:
        check_answers(address, "MLFLOW_TRACKING_URI")
    assert "secret" not in str(raised.value)
    check_answers("file:/somewhere", "MLFLOW_TRACKING_URI")
    check_answers("databricks", "MLFLOW_TRACKING_URI")


def test_no_password_is_shown(closed_port: int) -> None:
    with pytest.raises(StoreError) as raised:
        check_answers(f"http://me:secret@127.0.0.1:{closed_port}", "MLFLOW_TRACKING_URI")
    assert "secret" not in str(raised.value)


def test_the_default_address_is_a_database_in_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (MlflowException("broken\ndetails"), r"said: broken\. .*\[STORE-039\]"),
        (OSError(errno.ENOSPC, "full"), r"\[STORE-021\]"),
    ],
)
def test_errors_become_readable(error: Exception, rule: str) -> None:
    with pytest.raises(StoreError, match=rule) as raised, store_errors("sqlite:///x.db"):
        raise error
    assert raised.value.__cause__ is error


def test_artifacts_move_with_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before, after = tmp_path / "be%fore_ it", tmp_path / "after" / "wards"
    tracking = open_tracking(before, "a", LocalStore(before / "stages"))
    run = tracking.client.create_run(tracking.experiment_id).info
    tracking.client.log_text(run.run_id, "text", "file")
    assert (before / "mlartifacts/stages" / run.run_id / "artifacts/file").read_text() == "text"
    after.parent.mkdir()
    before.rename(after)
    tracking = open_tracking(after, "a", LocalStore(after / "stages"))
    assert Path(tracking.client.download_artifacts(run.run_id, "file")).read_text() == "text"
    tracking.client.log_text(tracking.client.create_run(tracking.experiment_id).info.run_id, "more", "file")
    assert not before.exists()


def test_a_place_of_artifacts_that_somebody_chose_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = (tmp_path / "chosen").as_uri()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").create_experiment("a", artifact_location=chosen)
    a = open_tracking(tmp_path, "a", LocalStore(tmp_path / "stages"))
    assert a.client.get_experiment(a.experiment_id).artifact_location == chosen
    a.client.log_text(a.client.create_run(a.experiment_id).info.run_id, "text", "file")
    assert len(list((tmp_path / "chosen").rglob("file"))) == 1


def test_the_scheme_of_artifacts_leads_to_a_server_where_there_is_one() -> None:
    found = get_artifact_repository("mlflow-artifacts:/stages/x", tracking_uri="http://127.0.0.1:5000")
    assert isinstance(found, MlflowArtifactsRepository)
    assert found.artifact_uri.startswith("http://127.0.0.1:5000/")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), store_errors("sqlite:///x.db"):
        raise FileNotFoundError("x")


def test_two_machines_may_make_an_experiment_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = open_tracking(tmp_path, "softgrpo/x", LocalStore(tmp_path / "stages"))
    look, looks = (
        MlflowClient.get_experiment_by_name,
        [None],
    )  # the second machine looks before the first one has inserted

    def late(client: MlflowClient, name: str) -> Experiment | None:
        return looks.pop() if looks else look(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    second = open_tracking(tmp_path, "softgrpo/x", LocalStore(tmp_path / "other"))
    assert second.experiment_id == first.experiment_id and not looks


@pytest.mark.parametrize("code", [BAD_REQUEST, RESOURCE_ALREADY_EXISTS])
def test_a_write_is_tried_again_once_where_the_row_is_there_already(code: int) -> None:
    refusals = [MlflowException("UNIQUE constraint failed", code)]

    def write() -> str:
        if refusals:
            raise refusals.pop()
        return "written"

    assert insert(write) == "written"
    refusals[:] = [MlflowException(text, code) for text in ("third", "second", "first")]
    with pytest.raises(MlflowException, match="second"):
        insert(write)
    assert len(refusals) == 1


def test_a_write_that_fails_for_another_reason_is_not_tried_again() -> None:
    refusals = [MlflowException(text, INTERNAL_ERROR) for text in ("second", "first")]

    def write() -> None:
        raise refusals.pop()

    with pytest.raises(MlflowException, match="first"):
        insert(write)
    assert len(refusals) == 1
