"""Prefect's database with all its tables and nothing in them: `python -m softgrpo.flows.runtime.empty_database` makes one, at set-up.

Prefect makes its tables by all the migrations since its first version, which takes seconds; a new output folder gets a copy.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

from softgrpo.common.files import make_private
from softgrpo.tasks.servers.database import check_sqlite

NAME = "prefect.db"
"""Of the database in Prefect's home."""
BUSY_SECONDS = 60.0
RESERVED_BYTES = 4 * 1024 * 1024
ELSEWHERE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Name another database; the second is what older versions read."""


def empty_database() -> Path:
    """Returns the path of the empty database for the installed Prefect, in the virtual environment; it may be missing."""
    return Path(sys.prefix) / "share" / "softgrpo" / f"prefect-{version('prefect')}.db"


def install_empty_database(home: Path) -> None:
    """Makes Prefect's home, readable by its owner only, and copies the empty database into it.

    Nothing is copied where the home has a database already, where the environment names another one, or where the empty
    database was never made: then Prefect makes its own, which takes some seconds.

    Args:
        home: Prefect's home; the caller holds the lock of the output folder, so that no other process does the same meanwhile.
    """
    database, empty = home / NAME, empty_database()
    make_private(home)
    if database.exists() or not empty.is_file() or any(name in os.environ for name in ELSEWHERE):
        return
    aside = home / f".{NAME}"
    aside.touch(mode=0o600)
    shutil.copyfile(empty, aside)
    aside.replace(database)


def check_own_database(home: Path) -> None:
    """Checks the database that a run's own Prefect server would open; a missing one is fine, since the server makes it.

    Args:
        home: Prefect's home.

    Raises:
        StoreError: It is no SQLite file, or a damaged one.
    """
    if not any(name in os.environ for name in ELSEWHERE):
        check_sqlite(
            home / NAME,
            "The server that a run starts for itself keeps the history of runs there",
            "Put its backup there, or move it away: a new one is made, and no result is lost",
        )


@contextmanager
def reserve_disk_space(home: Path) -> Iterator[None]:
    """Reserves some megabytes for Prefect's database until the block ends, so that a run can record its end on a full disk.

    The space is inside the file, as free pages, and in its write-ahead log, which keeps its length as long as a connection is
    open. Prefect's own migrations leave as much, so a database that is still to be made is left alone. Where the disk is full
    already, the server's log says so, and the run reports what it could not write.

    Args:
        home: Prefect's home.
    """
    if not (home / NAME).is_file():
        yield
        return
    with closing(sqlite3.connect(home / NAME, BUSY_SECONDS, isolation_level=None)) as database:
        try:
            database.execute("create table if not exists room (bytes blob)")  # there if the last one was killed here
            database.execute("insert into room values (zeroblob(?))", (RESERVED_BYTES,))
            database.execute("drop table room")
            database.execute("pragma wal_checkpoint").fetchall()
        except sqlite3.OperationalError as error:
            print(f"no disk space reserved in {home / NAME}: {error}", file=sys.stderr)
        yield


def make() -> Path:
    """Makes the empty database, or leaves the one that is there.

    Raises:
        CalledProcessError: Prefect's command failed; it has printed why.
    """
    empty = empty_database()
    if empty.is_file():
        return empty
    empty.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=empty.parent) as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        command = [sys.executable, "-m", "prefect", "--no-prompt", "server", "database", "upgrade", "--yes"]
        subprocess.run(command, env=environment | {"PREFECT_HOME": home}, stdout=subprocess.DEVNULL, check=True)
        (Path(home) / NAME).replace(empty)
    return empty


if __name__ == "__main__":
    print(make())
