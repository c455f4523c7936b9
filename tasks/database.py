"""MLflow's SQLite file in an output folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

DATABASE = "mlflow.db"


def make_database(output: Path) -> Path:
    """Returns the file, made if needed so that it is written ahead, which it remembers.

    A commit then takes about a tenth of the time and is as safe, and nobody who reads waits for one who writes. On a file
    system without shared memory, such as one of another machine, SQLite leaves it as it was.

    Args:
        output: Folder of the file, which exists.
    """
    path = output.resolve() / DATABASE
    if not path.exists():
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    return path
