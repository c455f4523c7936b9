"""MLflow's SQLite file in an output folder, and whether such a file is whole."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

from softgrpo.errors import StoreError, chain, full_disk_is_readable

DATABASE = "mlflow.db"
MOUNTS = Path("/proc/self/mounts")
HERE = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
"""File systems of one machine, whose processes share memory; a database that is written ahead needs that."""


def make_database(output: Path) -> Path:
    """Returns the file, made if needed for its owner alone; on a file system of this machine it is written ahead.

    The file keeps that mode. A commit then takes about a tenth of the time and is as safe, and a reader does not wait for a writer.
    On other file systems, as over a network, the file keeps SQLite's usual mode.

    Args:
        output: Folder of the file, which exists.

    Raises:
        StoreError: It cannot be made.
    """
    path = output.resolve() / DATABASE
    if path.exists():
        return path
    try:
        with full_disk_is_readable():
            path.touch(mode=0o600)  # SQLite gives the files beside it the same rights
            if file_system(path.parent) in HERE:
                with closing(sqlite3.connect(path)) as database:
                    database.execute("PRAGMA journal_mode=WAL")
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"'{path}': {error}", "MLflow's database is made there", "Choose another --output", code="STORE-030"
        ) from error
    return path


def check_database(output: Path) -> None:
    """Checks MLflow's database in an output folder; a missing one is fine.

    Raises:
        StoreError: It is no SQLite file, or a damaged one.
    """
    check_sqlite(
        output / DATABASE,
        "MLflow's record of all runs is in that file",
        "Put its backup there, or move it away and begin a new record; or name another folder with --output",
    )


def check_sqlite(path: Path, rule: str, remedy: str) -> None:
    """Checks that a file, if it is there, is an undamaged SQLite database; a megabyte takes about a millisecond.

    Args:
        path: The file.
        rule: What it is for.
        remedy: What to do where it is damaged.

    Raises:
        StoreError: It is something else, or damaged.
    """
    if not path.exists():
        return
    kind, damage = ("none", "") if path.is_dir() else _damage(path)
    if kind == "none":
        raise StoreError(f"'{path}' is no SQLite database", rule, remedy, code="STORE-031")
    if damage:
        raise StoreError(f"'{path}' is damaged: {damage}", rule, remedy, code="STORE-032")


def _damage(path: Path) -> tuple[Literal["none", "database"], str]:
    """Returns whether a file is a database at all, and its first damage, "" where there is none or it cannot be read now.

    SQLite alone opens the file: another handle in this process, once closed, would take SQLite's locks away with it (POSIX), and
    the next program that closes the database would delete what this process still writes to.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:  # locked, or without the right to read: opening it for work will say so
        return "database", ""
    except sqlite3.DatabaseError as error:
        return "none" if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB else "database", str(error)
    return "database", "" if verdict == "ok" else str(verdict)


def damaged_database(error: BaseException) -> StoreError | None:
    """Returns the error of a database whose pages turned out to be damaged in the middle of something; None for any other."""
    for each in chain(error):
        if isinstance(each, sqlite3.DatabaseError) and not isinstance(
            each, sqlite3.OperationalError | sqlite3.IntegrityError
        ):
            return StoreError(
                f"A SQLite database says: {each}",
                "MLflow's record is in mlflow.db in the output folder, Prefect's in prefect/prefect.db",
                "Find the damaged one with `sqlite3 FILE 'PRAGMA integrity_check'`, and put its backup there or move it away",
                code="STORE-033",
            )
    return None


def file_system(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Returns the kind of file system a folder is on, such as ext4 or nfs4; None where the system does not say.

    Args:
        folder: An absolute path.
        mounts: A file as Linux has it: device, place, kind, with an octal code for a space in a place.
    """
    if not mounts.is_file():
        return None
    entries = [line.split()[1:3] for line in mounts.read_text(encoding="utf-8").splitlines()]
    places = [(Path(place.replace("\\040", " ")), kind) for place, kind in entries]
    around = [
        (len(place.parts), number, kind) for number, (place, kind) in enumerate(places) if folder.is_relative_to(place)
    ]
    return max(around)[2] if around else None  # the innermost, and of several in one place the last
