"""From atomic files to a filtered, ordered corpus, and the corpus on disk."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus
from softgrpo.config import DataConfig
from softgrpo.data.atomic import numbers, read_atomic, require_columns, tokens
from softgrpo.data.locate import locate
from softgrpo.errors import DataError

TITLE_FIELDS = ("title", "movie_title", "app_name", "name")
GENRE_FIELDS = ("genres", "genre", "class", "categories")
USER_FIELDS = ("age", "gender", "occupation")


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
    folder = locate(config)
    table = _read_interactions(folder / f"{config.dataset}.inter", config, seed)
    table = _filter(table, config, seed)
    users, user_tokens = pd.factorize(table[Columns.User], sort=True)
    items, item_tokens = pd.factorize(table[Columns.Item], sort=True)
    order = np.argsort(users, kind="stable")  # rows are already in time order within each user
    user = users[order].astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(user_tokens)))]).astype(np.int64)
    return Corpus(
        users=_read_users(folder / f"{config.dataset}.user", np.asarray(user_tokens, dtype=object), config),
        items=_read_items(folder / f"{config.dataset}.item", np.asarray(item_tokens, dtype=object), config),
        user=user,
        item=items[order].astype(np.int32),
        time=table[Columns.Time].to_numpy(np.float64)[order],
        offsets=offsets,
    )


def _read_interactions(path: Path, config: DataConfig, seed: int) -> pd.DataFrame:
    raw = read_atomic(path)
    columns = {"data.user_field": config.user_field, "data.item_field": config.item_field}
    if config.time_field is not None:
        columns["data.time_field"] = config.time_field
    if config.min_rating is not None:
        if config.rating_field is None:
            raise DataError(
                "data.min_rating without data.rating_field",
                "a rating filter needs ratings",
                "Set both",
                code="DATA-006",
            )
        columns["data.rating_field"] = config.rating_field
    require_columns(path, raw, columns)
    table = pd.DataFrame(
        {
            Columns.User: tokens(path, raw, config.user_field),
            Columns.Item: tokens(path, raw, config.item_field),
            Columns.Time: np.nan if config.time_field is None else numbers(path, raw, config.time_field),
        }
    )
    if config.min_rating is not None:
        assert config.rating_field is not None
        table = table[numbers(path, raw, config.rating_field) >= config.min_rating]
    keys: tuple[NDArray[np.generic], ...] = (table[Columns.Time].to_numpy(),)
    if config.ties == "hash" and config.time_field is not None:
        keys = (tie_hash(table[Columns.User], table[Columns.Item], seed), *keys)
    table = table.iloc[np.lexsort(keys)]  # lexsort is stable: equal keys stay in file order
    return table.drop_duplicates([Columns.User, Columns.Item], keep="first")


def tie_hash(user: pd.Series, item: pd.Series, seed: int) -> NDArray[np.uint64]:
    """Returns a number per row that depends on the seed and the pair of tokens only, (rows,) uint64."""
    key = f"{seed:016d}"
    both = user.to_numpy(object) + "\t" + item.to_numpy(object)
    return pd.util.hash_array(np.asarray(both, dtype=object), hash_key=key, categorize=False)


def _filter(table: pd.DataFrame, config: DataConfig, seed: int) -> pd.DataFrame:
    while config.k_core > 1 and len(table):
        item_counts = table.groupby(Columns.Item)[Columns.Item].transform("size")
        user_counts = table.groupby(Columns.User)[Columns.User].transform("size")
        keep = (item_counts >= config.k_core) & (user_counts >= config.k_core)
        if keep.all():
            break
        table = table[keep]
    table = table[table.groupby(Columns.User)[Columns.User].transform("size") >= config.min_user_items]
    if not len(table):
        raise DataError(
            f"dataset '{config.dataset}' keeps no user",
            f"a user needs {config.min_user_items} distinct items behind a {config.k_core}-core filter",
            "Lower data.k_core and data.min_user_items (and data.min_rating), or bring more data",
            code="DATA-007",
        )
    if config.max_users is not None:
        names = np.sort(table[Columns.User].unique())
        if config.max_users < len(names):
            chosen = np.random.default_rng(seed).choice(names, config.max_users, replace=False)
            table = table[table[Columns.User].isin(chosen)]
    return table


def _pick(path: Path, table: pd.DataFrame, setting: str, named: str | None, usual: tuple[str, ...]) -> str | None:
    if named is not None:
        require_columns(path, table, {setting: named})
        return named
    return next((name for name in usual if name in table.columns), None)


def aligned(table: pd.DataFrame, key: str, tokens: NDArray[np.object_]) -> pd.DataFrame:
    """Returns one row per token, in their order; "" where the table has none, and the first where it has several."""
    return table.drop_duplicates(key, keep="first").set_index(key).reindex(tokens).fillna("")


def _read_items(path: Path, tokens: NDArray[np.object_], config: DataConfig) -> pd.DataFrame:
    items = pd.DataFrame({Columns.Token: tokens, Columns.Title: "", Columns.Genres: ""}, dtype=object)
    if not path.is_file():
        return items
    table = read_atomic(path)
    key = config.item_key_field or config.item_field
    require_columns(path, table, {"data.item_key_field": key})
    rows = aligned(table, key, tokens)
    title = _pick(path, table, "data.title_field", config.title_field, TITLE_FIELDS)
    genres = _pick(path, table, "data.genre_field", config.genre_field, GENRE_FIELDS)
    if title is not None:
        items[Columns.Title] = [html.unescape(text).strip() for text in rows[title]]
    if genres is not None:
        items[Columns.Genres] = [html.unescape(text).strip() for text in rows[genres]]
    return items


def _read_users(path: Path, tokens: NDArray[np.object_], config: DataConfig) -> pd.DataFrame:
    users = pd.DataFrame({Columns.Token: tokens}, dtype=object)
    if not path.is_file():
        if config.user_fields:
            raise DataError(
                f"{path} is missing",
                "data.user_fields names columns of it",
                "Add it, or clear the setting",
                code="DATA-008",
            )
        return users
    table = read_atomic(path)
    require_columns(path, table, {"data.user_field": config.user_field})
    rows = aligned(table, config.user_field, tokens)
    if config.user_fields is None:
        fields = [name for name in USER_FIELDS if name in table.columns]
    else:
        for name in config.user_fields:
            require_columns(path, table, {"data.user_fields": name})
        fields = list(config.user_fields)
    for field in fields:
        users[field] = rows[field].to_numpy()
    return users


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """Writes `interactions.parquet`, `users.parquet` and `items.parquet`."""
    table = pd.DataFrame({Columns.User: corpus.user, Columns.Item: corpus.item, Columns.Time: corpus.time})
    table.to_parquet(folder / "interactions.parquet", index=False)
    corpus.users.to_parquet(folder / "users.parquet", index=False)
    corpus.items.to_parquet(folder / "items.parquet", index=False)


def load_corpus(folder: Path) -> Corpus:
    """Reads what `write_corpus` wrote."""
    table = pd.read_parquet(folder / "interactions.parquet")
    users = pd.read_parquet(folder / "users.parquet")
    user = table[Columns.User].to_numpy(np.int32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(users)))]).astype(np.int64)
    return Corpus(
        users=users,
        items=pd.read_parquet(folder / "items.parquet"),
        user=user,
        item=table[Columns.Item].to_numpy(np.int32),
        time=table[Columns.Time].to_numpy(np.float64),
        offsets=offsets,
    )
