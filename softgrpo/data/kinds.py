"""The kinds of files that tables come in, told by the names of the files, and the published forms that have no header."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import BinaryIO, Literal, cast

from softgrpo.errors import DataError

Kind = Literal["atomic", "csv", "tsv", "parquet", "json", "double colon", "u.data", "u.item", "u.user"]
SUFFIXES: dict[str, Kind] = {
    ".inter": "atomic",
    ".item": "atomic",
    ".user": "atomic",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
    ".jsonl": "json",
}
PUBLISHED: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "ratings.dat": ("double colon", ("user_id", "item_id", "rating", "timestamp")),
    "movies.dat": ("double colon", ("item_id", "movie_title", "genre")),
    "users.dat": ("double colon", ("user_id", "gender", "age", "occupation", "zip_code")),
    "u.data": ("u.data", ("user_id", "item_id", "rating", "timestamp")),
    "u.item": ("u.item", ("item_id", "movie_title", "release_date", "video_release_date", "address")),
    "u.user": ("u.user", ("user_id", "age", "gender", "occupation", "zip_code")),
}
"""Files of MovieLens without a header: kind and columns, with the names that RecBole gives them. `u.item` ends with one 0 or 1 for
each of `U_ITEM_GENRES`, which become the column `class`."""
U_ITEM_GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
SEPARATORS: dict[Kind, str] = {"csv": ",", "tsv": "\t", "u.data": "\t", "u.item": "|", "u.user": "|", "atomic": "\t"}
KNOWN = ".csv, .tsv, .json or .jsonl (each also with .gz), .parquet, .inter, and MovieLens' own ratings.dat and u.data"
PACKED = ".gz"


def kind_of(path: Path) -> Kind | None:
    """Returns what kind of table a file of this name is, None where it is none."""
    if path.name.lower() in PUBLISHED:
        return PUBLISHED[path.name.lower()][0]
    name = path.name.lower().removesuffix(PACKED)
    kind = SUFFIXES.get(Path(name).suffix)
    return None if is_packed(path) and kind in ("parquet", "atomic") else kind


def is_packed(path: Path) -> bool:
    """Tells whether a file is packed by gzip."""
    return path.name.lower().endswith(PACKED)


def stem_of(path: Path) -> str:
    """Returns a file's name without the suffixes that say its kind."""
    if path.name.lower() in PUBLISHED or kind_of(path) is None:
        return path.name
    return Path(path.name[: -len(PACKED)] if is_packed(path) else path.name).stem


def checked_kind(path: Path) -> Kind:
    """Returns what kind of table a file is.

    Raises:
        DataError: There is no such file, or its name is that of no known kind.
    """
    if not path.is_file():
        raise DataError(f"'{path}'", "There is no such file", "Correct the name", code="DATA-031")
    kind = kind_of(path)
    if kind is None:
        raise DataError(
            f"'{path}'", f"A table is {KNOWN}", "Convert it, or give it a name that says what it is", code="DATA-034"
        )
    return kind


def open_bytes(path: Path) -> BinaryIO:
    """Opens a file to read, unpacked."""
    return cast("BinaryIO", gzip.open(path, "rb")) if is_packed(path) else path.open("rb")


TEXT_RULE = "A table is UTF-8 text whose first line names the columns, and each line has as many fields"


def line_error(path: Path, line: int, what: str, rule: str = TEXT_RULE) -> DataError:
    """Returns the error of a line."""
    return DataError(f"{path}, line {line}: {what}", rule, "Correct the line, or remove it", code="DATA-004")


def no_row(path: Path) -> DataError:
    """Returns the error of a table without rows."""
    return DataError(f"'{path}' has no row", "A table has one at least", "Fill it", code="DATA-035")


def named_data(dataset: str) -> dict[str, str]:
    """Returns the settings that the name of a dataset stands for, by dotted path.

    Args:
        dataset: A name; or a file or folder, which has a slash in it or the suffix of a table.
    """
    path = Path(dataset)
    is_path = "/" in dataset or os.sep in dataset or kind_of(path) is not None
    if not is_path or "\0" in dataset:
        return {"data.dataset": dataset}
    name = path.absolute().name if path.is_dir() else stem_of(path)
    if path.is_dir() and name in ("", ".", ".."):
        name = path.resolve().name
    return {"data.dataset": name, "data.source": dataset}
