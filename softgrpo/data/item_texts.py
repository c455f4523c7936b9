"""What the recaller `Text` reads: one text per item, joined from titles, genres and further columns of the file of items."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.names import TEXT
from softgrpo.config import DataConfig, TextConfig
from softgrpo.config.lists import CORPUS_FIELDS
from softgrpo.data.corpus import aligned, item_key, read_texts
from softgrpo.data.files import data_files
from softgrpo.data.tables import TableFile
from softgrpo.data.usual import GENRE_FIELDS, TITLE_FIELDS, require_columns
from softgrpo.errors import DataError

FEW_TEXTS = 0.5
"""Share of items with a text below which people are warned."""


def item_texts(data: DataConfig, text: TextConfig, items: pd.DataFrame) -> list[str]:
    """Returns one text per item: its fields, joined by full stops.

    HTML entities become characters, and whitespace becomes single spaces. A title or genres that the data lack are left out.

    Args:
        data: Where the file of items is, and which of its columns are the title and the genres.
        text: What a text is made of.
        items: Of the corpus, see `softgrpo.common.records.Corpus`.

    Returns:
        I texts, "" where an item has none.

    Raises:
        DataError: The file of items is missing, or has none of the columns or not one of the further ones, or all are empty.
    """
    files = data_files(data)
    path = files.items
    if path is None:
        expected = files.interactions.with_suffix(".item")
        raise DataError(
            f"{expected if files.interactions.suffix == '.inter' else 'A file of items'} is missing",
            f"The recaller {TEXT} reads the texts of items from it; it looked for the columns {_wanted(data, text.fields)}",
            f"Add the file, or drop {TEXT} from recall.recallers",
            code="DATA-027",
        )
    columns = {field: items[field] for field in CORPUS_FIELDS} | _further(path, data, text.further_fields, items)
    texts = joined_texts(text, columns)
    if not any(texts):
        raise DataError(
            f"{path} with the columns {', '.join(TableFile.open(path).names)}",
            f"The recaller {TEXT} reads the texts of items, and no item has any; it looked for the columns"
            f" {_wanted(data, text.fields)}",
            f"Name columns with --text.fields, data.title_field or data.genre_field, or drop {TEXT} from recall.recallers",
            code="DATA-028",
        )
    return texts


def joined_texts(text: TextConfig, columns: Mapping[str, Iterable[str]]) -> list[str]:
    """Returns one text per item.

    Args:
        text: Names the columns, in their order.
        columns: Their values, one for each item.
    """
    parts = [[_plain(value) for value in columns[field]] for field in text.fields]
    return [". ".join(filter(None, each)) for each in zip(*parts, strict=True)]


def _further(
    path: Path, data: DataConfig, names: Sequence[str], items: pd.DataFrame
) -> dict[str, NDArray[np.object_]]:  # fmt: skip
    if not names:
        return {}
    table = read_texts(path)
    for name in names:
        require_columns(path, list(table.columns), {"text.fields": name})
    rows = aligned(table, item_key(path, list(table.columns), data), items[Columns.Token].to_numpy(object))
    return {name: rows[name].to_numpy(object) for name in names}


def _wanted(data: DataConfig, fields: Sequence[str]) -> str:
    """Returns the columns that a dataset's texts may come from, in words."""
    usual = {
        Columns.Title: (data.title_field,) if data.title_field else TITLE_FIELDS,
        Columns.Genres: (data.genre_field,) if data.genre_field else GENRE_FIELDS,
    }
    return "; ".join(" or ".join(usual.get(field, (field,))) for field in fields)


def _plain(text: str) -> str:
    return " ".join(html.unescape(text).split())


def few_texts_note(texts: Sequence[str]) -> str | None:
    """Returns a line to say where most items have no text, None elsewhere."""
    empty = sum(not text for text in texts)
    if empty <= FEW_TEXTS * len(texts):
        return None
    return (
        f"{empty:,} of {len(texts):,} items have no text (text.fields); the recaller {TEXT} never lists them and leaves"
        " them out of histories"
    )
