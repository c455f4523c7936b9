"""Which files a dataset has: interactions, and items and users where there are any; from one file, a folder, or its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from softgrpo.config import DataConfig
from softgrpo.data.kinds import KNOWN, checked_kind, kind_of, stem_of
from softgrpo.data.locate import INTERACTIONS, locate
from softgrpo.data.tables import TableFile
from softgrpo.data.usual import ITEM_KEYS, USUAL, first_usual
from softgrpo.errors import DataError

ITEMS = ("items", "item", "movies", "products", "books", "articles", "catalog", "catalogue", "businesses", "games")
USERS = ("users", "user", "customers")
META = "meta_"
"""What Amazon's files of products begin with."""


@dataclass(frozen=True)
class DataFiles:
    """The files of a dataset.

    Attributes:
        interactions: Who took what and when.
        items: What the items are; None where there is no such file.
        users: Who the users are; likewise.
    """

    interactions: Path
    items: Path | None = None
    users: Path | None = None

    def by_role(self) -> dict[str, Path]:
        """Returns the files that are there, by what they hold."""
        every = {"interactions": self.interactions, "items": self.items, "users": self.users}
        return {role: path for role, path in every.items() if path is not None}


def data_files(config: DataConfig) -> DataFiles:
    """Returns the files of a dataset; downloads it where RecBole knows an address.

    Raises:
        DataError: They are not there, or a folder leaves open which is which.
    """
    return files_at(locate(config), config.dataset)


def files_at(place: Path, dataset: str) -> DataFiles:
    """Returns the files of a dataset that is one file or a folder.

    Args:
        place: The file or folder.
        dataset: Its name, which files of a folder may have.

    Raises:
        DataError: There is nothing of a known kind, or a folder leaves open which file is which.
    """
    if not place.is_dir():
        checked_kind(place)
        return _beside(place) if place.suffix == ".inter" else DataFiles(place)
    if (place / f"{dataset}.inter").is_file():
        return _beside(place / f"{dataset}.inter")
    paths = sorted(path for path in place.iterdir() if path.is_file() and kind_of(path) and path.name[0] != ".")
    interactions = _interactions(place, paths, dataset)
    if interactions.suffix == ".inter":
        return _beside(interactions)
    others = [path for path in paths if path != interactions]
    metas = [path for path in others if path.name.startswith(META)]
    items = metas[0] if len(metas) == 1 else _named(place, others, (*ITEMS, "u.item", "movies.dat"))
    users = _named(place, others, (*USERS, "u.user", "users.dat"))
    return DataFiles(interactions, items, users)


def _beside(path: Path) -> DataFiles:
    """Returns an atomic file with those of the same name beside it."""
    items, users = (path.with_suffix(suffix) for suffix in (".item", ".user"))
    return DataFiles(path, items if items.is_file() else None, users if users.is_file() else None)


def _interactions(place: Path, paths: Sequence[Path], dataset: str) -> Path:
    """Returns the file of interactions in a folder: by its name, else the only one with a user and an item."""
    named = _named(place, paths, (dataset.lower(), *INTERACTIONS))
    if named is not None:
        return named
    found = [path for path in paths if not path.name.startswith(META) and _has_pairs(path)]
    if len(found) == 1:
        return found[0]
    received = f"folder '{place}' with {_listed(paths)}"
    if not found:
        raise DataError(
            received,
            f"one of its files holds interactions, with columns of the user and the item; files are {KNOWN}",
            "Call it interactions.csv, or name the file itself instead of the folder",
            code="DATA-045",
        )
    raise _several(place, found, "interactions")


def _named(place: Path, paths: Sequence[Path], names: Iterable[str]) -> Path | None:
    """Returns the file with the first of some names, None where no file has any.

    Raises:
        DataError: Several files have it.
    """
    for name in names:
        found = [path for path in paths if stem_of(path).lower() == name]
        if len(found) > 1:
            raise _several(place, found, name)
        if found:
            return found[0]
    return None


def _has_pairs(path: Path) -> bool:
    names = TableFile.open(path).names
    return first_usual(names, USUAL["user"]) is not None and first_usual(names, ITEM_KEYS[:-1]) is not None


def _several(place: Path, paths: Sequence[Path], what: str) -> DataError:
    return DataError(
        f"folder '{place}' with {_listed(paths)}",
        f"one file of a dataset holds {what}, and these all could",
        "Name the one that is meant instead of the folder, or move the others away",
        code="DATA-046",
    )


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:8]) + (", ..." if len(paths) > 8 else "")
    return shown or "no table"
