"""Prefect's database with all its tables and nothing in them: `python -m flows.runtime.empty_database` makes one, at set-up.

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
from tasks.servers.database import check_sqlite

NAME = "prefect.db"
"""Of the database in Prefect's home."""
BUSY_SECONDS = 60.0
ROOM_BYTES = 4 * 1024 * 1024
ELSEWHERE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Name another database; the second is what older versions read."""


def empty_database() -> Path:
    """Returns where the empty database of the installed Prefect lies, in the virtual environment, if it was made."""
    return Path(sys.prefix) / "share" / "softgrpo" / f"prefect-{version('prefect')}.db"


def lay(home: Path) -> None:
    """Makes Prefect's home, which only its owner can read, and puts a copy of the empty database into it.

    Not where there is a database, or the environment names another.

    Without the empty database nothing is done: Prefect makes its own, some seconds later. Nobody else may do the same meanwhile.
    """
    database, made = home / NAME, empty_database()
    make_private(home)
    if database.exists() or not made.is_file() or any(name in os.environ for name in ELSEWHERE):
        return
    aside = home / f".{NAME}"
    aside.touch(mode=0o600)
    shutil.copyfile(made, aside)
    aside.replace(database)


def check_own_database(home: Path) -> None:
    """Checks the database that Prefect's own server of a run would open; nothing there is right.

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
def room(home: Path) -> Iterator[None]:
    """Keeps some megabytes for a database while a block lasts: where the disk becomes full, a run still tells how it ended.

    They are in the file, as pages that are free again, and in its write-ahead log, which is as long as somebody has the database
    open. Prefect's own migrations leave as much. A database that is still to be made is left alone; where there is no room
    left, the server's log says so, and the run tells what it could not write.
    """
    if not (home / NAME).is_file():
        yield
        return
    with closing(sqlite3.connect(home / NAME, BUSY_SECONDS, isolation_level=None)) as database:
        try:
            database.execute("create table if not exists room (bytes blob)")  # there if the last one was killed here
            database.execute("insert into room values (zeroblob(?))", (ROOM_BYTES,))
            database.execute("drop table room")
            database.execute("pragma wal_checkpoint").fetchall()
        except sqlite3.OperationalError as error:
            print(f"no room kept in {home / NAME}: {error}", file=sys.stderr)
        yield


def make() -> Path:
    """Makes the empty database, or leaves the one that is there.

    Raises:
        CalledProcessError: Prefect's command failed; it has said why.
    """
    made = empty_database()
    if made.is_file():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        command = [sys.executable, "-m", "prefect", "--no-prompt", "server", "database", "upgrade", "--yes"]
        subprocess.run(command, env=environment | {"PREFECT_HOME": home}, stdout=subprocess.DEVNULL, check=True)
        (Path(home) / NAME).replace(made)
    return made


if __name__ == "__main__":
    print(make())
