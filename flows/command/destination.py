"""Where `--to` may write: nothing that is there is written over unasked, and nothing that belongs to stored stages ever is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from softgrpo.common.paths import STAGES
from softgrpo.errors import ConfigError, StoreError
from softgrpo.flows.runtime.environment import check_takes_files
from softgrpo.tasks.servers.database import DATABASE

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
                f"--to: '{path}'",
                "It is a folder, and must be a file",
                "Move it away, or name another place",
                code="STORE-001",
            )
        if not overwrite and (path.exists() or path.is_symlink()):
            raise StoreError(
                f"--to: '{path}' exists",
                "Nothing is written over unasked",
                "Add --overwrite, or name another",
                code="STORE-002",
            )


def check_copy(folder: Path, files: Sequence[str], what: str, *, overwrite: bool) -> None:
    """Checks where a copy is to go, before the run is looked for.

    Args:
        folder: Where.
        files: What an earlier copy there has.
        what: What people call it.
        overwrite: An earlier copy may be written over.

    Raises:
        StoreError: Something of that name is there and holds other things than an earlier copy, it holds one that may not be
            written over, it belongs to stored stages, or no folder can be made there.
    """
    check_outside_stores(folder)
    earlier = all((folder / name).is_file() for name in files)
    if folder.exists() and not earlier and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(
            f"--to {folder}",
            f"It must be a new folder, an empty one, or with --overwrite one with an earlier {what} "
            f"({', '.join(files[:-1])} and {files[-1]})",
            "Name another",
            code="STORE-004",
        )
    check_destination([folder / name for name in files], overwrite=overwrite)
    check_takes_files("--to", folder)


def check_outside_stores(path: Path) -> None:
    """Checks that a path, which need not exist, does not lead into stored stages.

    Raises:
        StoreError: It does.
    """
    if (stages := store_around(path)) is not None:
        raise StoreError(
            f"--to {path}",
            f"What is in {stages} is stored and never written over",
            "Name another place",
            code="STORE-003",
        )


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
            "--overwrite without --to",
            "It is about the files that --to names",
            "Leave it out, or add --to",
            code="CONFIG-006",
        )
