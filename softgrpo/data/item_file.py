"""A file of items, such as a catalogue of new ones: ids, titles, genres, and the texts that the recaller `Text` reads. N items."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from softgrpo.common.columns import Columns
from softgrpo.config import DataConfig, TextConfig
from softgrpo.data.corpus import item_key, pick_text, read_texts
from softgrpo.data.item_texts import joined_texts
from softgrpo.data.usual import GENRE_FIELDS, TITLE_FIELDS, require_columns
from softgrpo.errors import DataError, nearest


@dataclass(frozen=True)
class ItemFile:
    """What a file tells of items.

    Attributes:
        items: N rows: `Columns.Token`, each once, and the columns `Columns.Title` and `Columns.Genres` that the file has.
        texts: N texts, "" where an item has none.
        text_columns: The columns of the file that texts are made of, by the file's own names.
    """

    items: pd.DataFrame
    texts: list[str]
    text_columns: tuple[str, ...]


def read_item_file(path: Path, data: DataConfig, text: TextConfig, known: pd.DataFrame) -> ItemFile:
    """Reads a file of items, with the columns that a data set's own file of items would have.

    Args:
        path: A file of any kind in `softgrpo.data.kinds`.
        data: Which columns are the item, its title and its genres.
        text: What a text is made of.
        known: Items of the run, see `Corpus.items`: what they have is needed of the file's items too.

    Raises:
        DataError: The file is damaged, lacks a column that texts are made of, or a row lacks its item.
    """
    table = read_texts(path)
    names = [str(name) for name in table]
    key = item_key(path, names, data)
    if (empty := (table[key].str.strip() == "").to_numpy(bool)).any():
        raise DataError(
            f"'{path}', row {int(empty.argmax()) + 1}: {key} is empty",
            "Every row of a file of items has its item",
            "Correct the row, or remove it",
            code="DATA-052",
        )
    rows = table.drop_duplicates(key, keep="first").reset_index(drop=True)
    title = pick_text(path, names, "data.title_field", data.title_field, TITLE_FIELDS)
    genres = pick_text(path, names, "data.genre_field", data.genre_field, GENRE_FIELDS)
    items = pd.DataFrame({Columns.Token: rows[key].astype(object)})
    for column, name in ((Columns.Title, title), (Columns.Genres, genres)):
        if name is not None:
            items[column] = [html.unescape(value).strip() for value in rows[name]]
    texts = joined_texts(text, _columns(path, text, rows, items, known))
    own = {Columns.Title: title, Columns.Genres: genres}
    columns = tuple(name for field in text.fields if (name := own.get(field, field)) is not None)
    return ItemFile(items, texts, columns)


def _columns(
    path: Path, text: TextConfig, rows: pd.DataFrame, items: pd.DataFrame, known: pd.DataFrame
) -> Mapping[str, pd.Series]:
    """Returns the columns that texts are made of; title or genres that no item of the run has may be missing."""
    further = text.further_fields
    for name in further:
        require_columns(path, list(rows.columns), {"text.fields": name})
    columns: dict[str, pd.Series] = {name: rows[name] for name in further}
    for field, usual in ((Columns.Title, TITLE_FIELDS), (Columns.Genres, GENRE_FIELDS)):
        if field in items:
            columns[field] = items[field]
        elif field in text.fields and (known[field] != "").any():
            raise DataError(
                f"'{path}' with the columns {', '.join(map(str, rows))}",
                f"The run's texts of items hold {field}; usual names of that column are {', '.join(usual[:4])}",
                f"Add or rename the column. {nearest(usual[0], map(str, rows))}",
                code="DATA-053",
            )
        else:
            columns[field] = pd.Series([""] * len(items), dtype=object)
    return columns
