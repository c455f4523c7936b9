"""The empty database that a new output folder gets a copy of. That a server starts on the copy is what tests/reliability shows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from softgrpo.flows.runtime.empty_database import (
    ELSEWHERE,
    empty_database,
    install_empty_database,
    make,
    reserve_disk_space,
)


@pytest.fixture
def laid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the empty database of an environment, which the tests fill with a word."""
    for name in ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.prefix", str(tmp_path / "environment"))
    made = empty_database()
    made.parent.mkdir(parents=True)
    made.write_text("empty")
    return made


def test_a_new_home_gets_a_copy(laid: Path, tmp_path: Path) -> None:
    home = tmp_path / "outputs" / "prefect"
    install_empty_database(home)
    assert [path.name for path in home.iterdir()] == ["prefect.db"]
    assert (home / "prefect.db").read_text() == laid.read_text() and home.stat().st_mode & 0o777 == 0o700


def test_a_database_that_is_there_stays(laid: Path, tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("runs of a year")
    install_empty_database(tmp_path)
    assert (tmp_path / "prefect.db").read_text() == "runs of a year"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_database_is_left_alone(name: str, laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "postgresql+asyncpg://somewhere")
    install_empty_database(tmp_path / "home")
    assert not [*(tmp_path / "home").iterdir()]


def test_of_another_prefect_none_is_taken(laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softgrpo.flows.runtime.empty_database.version", lambda package: "0.0")
    install_empty_database(tmp_path / "home")
    assert not [*(tmp_path / "home").iterdir()]


def test_it_has_all_tables_of_the_installed_prefect_and_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.database.orm_models import Base

    monkeypatch.setattr("sys.prefix", str(tmp_path))
    made = make()
    with closing(sqlite3.connect(made)) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        filled = {name for name in tables if database.execute(f'select count(*) from "{name}"').fetchone()[0]}
    assert set(Base.metadata.tables) <= tables and filled == {"alembic_version"}
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    assert make() == made


def test_a_full_disk_leaves_room_to_write(tmp_path: Path) -> None:
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table log (line text)")
        database.execute("create table room (bytes blob)")  # of one that was killed
    with reserve_disk_space(tmp_path), closing(sqlite3.connect(path, isolation_level=None)) as database:
        sizes = [file.stat().st_size for file in sorted(tmp_path.iterdir())]
        for _ in range(100):
            database.execute("insert into log values (?)", ("x" * 1000,))
        assert [file.stat().st_size for file in sorted(tmp_path.iterdir())] == sizes  # no file has grown
        assert database.execute("select name from sqlite_master").fetchall() == [("log",)]
    with reserve_disk_space(tmp_path / "new"):
        assert not (tmp_path / "new").exists()


def test_a_server_starts_without_room_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("softgrpo.flows.runtime.empty_database.BUSY_SECONDS", 0.0)
    with closing(sqlite3.connect(tmp_path / "prefect.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        with reserve_disk_space(tmp_path):
            assert "prefect.db: database is locked" in capsys.readouterr().err
