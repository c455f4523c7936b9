"""MLflow's SQLite file: looking at it takes nothing away from those who have it open."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from softgrpo.tasks.servers.database import check_database, make_database

OTHER = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select * from t').fetchall(); c.close()"


def test_a_check_leaves_the_locks_of_an_open_database_alone(tmp_path: Path) -> None:
    """Without them, the next program that closes the database takes itself for the last, and deletes the log of this one."""
    path = make_database(tmp_path)
    with closing(sqlite3.connect(path)) as mine:
        mine.execute("create table t (x)")
        mine.commit()
        check_database(tmp_path)
        subprocess.run([sys.executable, "-c", OTHER, str(path)], check=True)
        mine.execute("insert into t values (1)")
        mine.commit()
        with closing(sqlite3.connect(path)) as again:
            assert again.execute("select * from t").fetchall() == [(1,)]
