"""Prefect's database with all its tables and nothing in them: `python -m flows.prefect_database` makes one, at set-up.

Prefect makes its tables by all the migrations since its first version, which takes seconds; a new output folder gets a copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

NAME = "prefect.db"
"""Of the database in Prefect's home."""
ELSEWHERE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Name another database; the second is what older versions read."""


def empty_database() -> Path:
    """Returns where the empty database of the installed Prefect lies, in the virtual environment, if it was made."""
    return Path(sys.prefix) / "share" / "softgrpo" / f"prefect-{version('prefect')}.db"


def lay(home: Path) -> None:
    """Puts a copy of the empty database into Prefect's home, unless there is a database or the environment names another.

    Without the empty database nothing is done: Prefect makes its own, some seconds later. Nobody else may do the same meanwhile.
    """
    database, made = home / NAME, empty_database()
    if database.exists() or not made.is_file() or any(name in os.environ for name in ELSEWHERE):
        return
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = home / f".{NAME}"
    shutil.copyfile(made, aside)
    aside.replace(database)


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
