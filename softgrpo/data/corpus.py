"""From files to a filtered, ordered corpus, and the corpus on disk."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus
from softgrpo.common.text import one_line
from softgrpo.config import DataConfig
from softgrpo.data.atomic import read_atomic
from softgrpo.data.files import DataFiles, data_files
from softgrpo.data.interactions import Interactions, hash_ties, in_order, read_interactions, renumbered
from softgrpo.data.tables import TableFile
from softgrpo.data.usual import GENRE_FIELDS, ITEM_KEYS, TITLE_FIELDS, find_column, first_usual, require_columns
from softgrpo.errors import DataError

USER_FIELDS = ("age", "gender", "occupation")
INTERACTIONS = {Columns.User: np.int32, Columns.Item: np.int32, Columns.Time: np.float64}
"""Columns of the interactions, each a file of its own, and their types."""
EARLIER = "interactions.parquet"
"""All of them in the runs of earlier versions."""
_STORED = (
    "The stages split and snapshot write each column of the interactions, of the same length, as one of NumPy's files"
)
_AGAIN = "Run the pipeline again; stages that have not changed are reused"


def read_corpus(config: DataConfig, seed: int) -> Corpus:
    """Reads, filters and orders a dataset.

    Args:
        config: What to read and keep.
        seed: Seed of the tie-breaking hash and of the sample of users.

    Returns:
        The corpus; users and items are numbered in the order of their tokens.

    Raises:
        DataError: A file is missing or malformed, or nothing is left after filtering.
    """
    files = data_files(config)
    rows, _ = read_interactions(TableFile.open(files.interactions), config)
    return corpus_of(rows, files, config, seed)


def corpus_of(rows: Interactions, files: DataFiles, config: DataConfig, seed: int) -> Corpus:
    """Returns the corpus of interactions as they were read, see `read_corpus`."""
    rows = renumbered(_filter(in_order(rows), config, seed))
    if config.ties == "hash" and config.time_field is not None:
        rows = hash_ties(rows, seed)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows.user, minlength=len(rows.users)))]).astype(np.int64)
    return Corpus(
        users=_read_users(files, rows.users, config),
        items=_read_items(files, rows.items, config),
        user=rows.user,
        item=rows.item,
        time=rows.time,
        offsets=offsets,
    )


def _filter(rows: Interactions, config: DataConfig, seed: int) -> Interactions:
    """Returns the rows of the users that stay: behind the k-core filter, with enough items, in the sample."""
    while config.k_core > 1 and len(rows.user):
        of_item, of_user = np.bincount(rows.item), np.bincount(rows.user)
        keep = (of_item[rows.item] >= config.k_core) & (of_user[rows.user] >= config.k_core)
        if keep.all():
            break
        rows = rows.of(keep)
    enough = np.bincount(rows.user, minlength=len(rows.users)) >= config.min_user_items
    if not enough.all():
        rows = rows.of(enough[rows.user])
    if not len(rows.user):
        raise DataError(
            f"dataset '{config.dataset}' keeps no user",
            f"a user needs {config.min_user_items} distinct items behind a {config.k_core}-core filter",
            "Lower data.k_core and data.min_user_items (and data.min_rating), or bring more data",
            code="DATA-007",
        )
    left = np.flatnonzero(np.bincount(rows.user, minlength=len(rows.users)))
    if config.max_users is not None and config.max_users < len(left):
        chosen = np.zeros(len(rows.users), dtype=np.bool_)
        chosen[np.random.default_rng(seed).choice(left, config.max_users, replace=False)] = True
        rows = rows.of(chosen[rows.user])
    return rows


def read_texts(path: Path) -> pd.DataFrame:
    """Returns a file of items or users, each value as text, "" where one is missing.

    Raises:
        DataError: The file is damaged; the message names the line where there are lines.
    """
    file = TableFile.open(path)
    if file.kind == "atomic":
        return read_atomic(path)
    table = file.read(dict.fromkeys(file.names, "text"))
    return pd.DataFrame({name: table.column(name).to_pandas().fillna("").astype(object) for name in file.names})


def item_key(path: Path, names: Sequence[str], config: DataConfig) -> str:
    """Returns the column of the item in a file of items.

    Raises:
        DataError: There is none.
    """
    named = config.item_key_field or config.item_field
    usual = None if config.item_key_field else first_usual(names, (config.item_field, *ITEM_KEYS))
    if named in names or usual is None:
        require_columns(path, names, {"data.item_key_field": named})
        return named
    return usual


def pick_text(path: Path, names: Sequence[str], setting: str, named: str | None, usual: Sequence[str]) -> str | None:
    """Returns a column of texts in a file of items: the one that a setting names, else the first with a usual name.

    Raises:
        DataError: The named one is missing.
    """
    if named is not None:
        require_columns(path, names, {setting: named})
        return named
    return first_usual(names, usual)


def aligned(table: pd.DataFrame, key: str, tokens: NDArray[np.object_]) -> pd.DataFrame:
    """Returns one row per token, in their order; "" where the table has none, and the first where it has several."""
    return table.drop_duplicates(key, keep="first").set_index(key).reindex(tokens).fillna("")


def _read_items(files: DataFiles, tokens: NDArray[np.object_], config: DataConfig) -> pd.DataFrame:
    items = pd.DataFrame({Columns.Token: tokens, Columns.Title: "", Columns.Genres: ""}, dtype=object)
    path = files.items
    if path is None:
        return items
    table = read_texts(path)
    names = list(table.columns)
    rows = aligned(table, item_key(path, names, config), tokens)
    title = pick_text(path, names, "data.title_field", config.title_field, TITLE_FIELDS)
    genres = pick_text(path, names, "data.genre_field", config.genre_field, GENRE_FIELDS)
    if title is not None:
        items[Columns.Title] = [html.unescape(text).strip() for text in rows[title]]
    if genres is not None:
        items[Columns.Genres] = [html.unescape(text).strip() for text in rows[genres]]
    return items


def _read_users(files: DataFiles, tokens: NDArray[np.object_], config: DataConfig) -> pd.DataFrame:
    users = pd.DataFrame({Columns.Token: tokens}, dtype=object)
    path = files.users
    if path is None:
        if config.user_fields:
            raise DataError(
                f"dataset '{config.dataset}' has no file of users beside {files.interactions}",
                "data.user_fields names columns of it",
                "Add it, or clear the setting",
                code="DATA-008",
            )
        return users
    table = read_texts(path)
    names = list(table.columns)
    key = find_column(names, "user", config)
    if key is None:
        require_columns(path, names, {"data.user_field": config.user_field})
    rows = aligned(table, key.name if key else config.user_field, tokens)
    if config.user_fields is None:
        fields = [name for name in USER_FIELDS if name in names]
    else:
        for name in config.user_fields:
            require_columns(path, names, {"data.user_fields": name})
        fields = list(config.user_fields)
    for field in fields:
        users[field] = rows[field].to_numpy()
    return users


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """Writes the columns of the interactions as NumPy's files, which can be mapped, `users.parquet` and `items.parquet`."""
    for name, kind in INTERACTIONS.items():
        np.save(_column(folder, name), np.asarray(getattr(corpus, name), dtype=kind))
    corpus.users.to_parquet(folder / "users.parquet", index=False)
    corpus.items.to_parquet(folder / "items.parquet", index=False)


def load_corpus(folder: Path) -> Corpus:
    """Opens what `write_corpus` wrote: interactions are mapped and not read, so that they may exceed the memory.

    Raises:
        DataError: A file of interactions is missing or damaged.
    """
    users = pd.read_parquet(folder / "users.parquet")
    columns = {name: _mapped(folder, name) for name in INTERACTIONS}
    user = columns[Columns.User]
    lengths = sorted({len(column) for column in columns.values()})
    if len(lengths) > 1:
        raise DataError(f"columns of {lengths} interactions in {folder}", _STORED, _AGAIN, code="DATA-057")
    return Corpus(
        users=users,
        items=pd.read_parquet(folder / "items.parquet"),
        **columns,
        offsets=np.searchsorted(user, np.arange(len(users) + 1)).astype(np.int64),
    )


def _column(folder: Path, name: str) -> Path:
    return folder / f"interactions.{name}.npy"


def _mapped(folder: Path, name: str) -> NDArray[Any]:
    """Returns a column of the interactions; changes stay in memory."""
    if (folder / EARLIER).is_file():
        return np.array(pq.read_table(folder / EARLIER, columns=[name]).column(name), dtype=INTERACTIONS[name])
    path = _column(folder, name)
    try:
        return np.asarray(np.load(path, mmap_mode="c"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({one_line(str(error))})", _STORED, _AGAIN, code="DATA-058") from error
