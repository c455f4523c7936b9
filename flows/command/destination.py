"""Where `--to` may write: nothing that is there is written over unasked, and nothing that belongs to stored stages ever is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from softgrpo.common.paths import STAGES
from softgrpo.errors import ConfigError, StoreError
from tasks.servers.database import DATABASE

LOCKS = ".locks"
"""Names of an output folder's store, and of what every store has."""


def check_destination(files: Iterable[Path], *, overwrite: bool) -> None:
    """Checks the files that a command is about to write.

    Args:
        files: Need not exist.
        overwrite: Files that exist may be written over.

    Raises:
        StoreError: One belongs to the stored stages of an output folder, by whatever links, is a folder, or exists.
    """
    for path in files:
        check_outside_stores(path)
        if path.is_dir():
            raise StoreError(
                f"--to: '{path}'", "It is a folder, and must be a file", "Move it away, or name another place"
            )
        if not overwrite and (path.exists() or path.is_symlink()):
            raise StoreError(
                f"--to: '{path}' exists", "Nothing is written over unasked", "Add --overwrite, or name another"
            )


def check_outside_stores(path: Path) -> None:
    """Checks that a path, which need not exist, does not lead into stored stages.

    Raises:
        StoreError: It does.
    """
    if (stages := store_around(path)) is not None:
        raise StoreError(f"--to {path}", f"What is in {stages} is stored and never written over", "Name another place")


def store_around(path: Path) -> Path | None:
    """Returns the folder of stored stages that a path lies in once links are followed, None where it lies in none.

    Args:
        path: Need not exist.
    """
    place = path.resolve()
    return next((folder for folder in (place, *place.parents) if folder.name == STAGES and _is_store(folder)), None)


def _is_store(folder: Path) -> bool:
    return (folder / LOCKS).is_dir() or (folder.parent / DATABASE).is_file()


def check_overwrite(to: Path | None, *, overwrite: bool) -> None:
    """Checks that --overwrite has something to be about.

    Raises:
        ConfigError: It is given without --to.
    """
    if overwrite and to is None:
        raise ConfigError(
            "--overwrite without --to", "It is about the files that --to names", "Leave it out, or add --to"
        )
