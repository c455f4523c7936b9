"""One text per item: which columns it comes from, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from softgrpo.config import DataConfig, TextConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.item_texts import few_texts_note, item_texts
from softgrpo.errors import DataError
from tests.softgrpo.data.cases import dataset, write_table

ROWS = [("u", item, time) for time, item in enumerate("abc")]


def texts(config: DataConfig, *fields: str) -> list[str]:
    """Returns the texts of a dataset's items a, b and c."""
    text = TextConfig(fields=fields) if fields else TextConfig()
    return item_texts(config, text, read_corpus(config, 1).items)


def shop(path: Path, header: str, *rows: tuple[str, ...], **settings: object) -> DataConfig:
    write_table(path / "toy" / "toy.item", header, rows)
    return dataset(path, ROWS, **settings)


def test_titles_and_genres_are_joined_and_plain(tmp_path: Path) -> None:
    header = "item_id:token\ttitle:token_seq\tcategories:token_seq"
    config = shop(tmp_path, header, ("c", "", "Hair"), ("a", "Salt &amp;  Sand ", "Skin Sun"), ("b", "", ""))
    assert texts(config) == ["Salt & Sand. Skin Sun", "", "Hair"]
    assert texts(config, "genres") == ["Skin Sun", "", "Hair"]
    assert texts(config, "genres", "title") == ["Skin Sun. Salt & Sand", "", "Hair"]


def test_further_columns_are_read_by_name(tmp_path: Path) -> None:
    header = "asin:token\ttitle:token_seq\tbrand:token\tsaid:token_seq"
    config = shop(tmp_path, header, ("b", "Two", "B&#39;s", "x"), ("a", "One", "", "y"), item_key_field="asin")
    assert texts(config, "title", "brand") == ["One", "Two. B's", ""]
    with pytest.raises(DataError, match=r"no column 'brnd'.*text\.fields.*'brand'.*\[DATA-005\]"):
        texts(config, "title", "brnd")


def test_one_of_title_and_genres_is_enough(tmp_path: Path) -> None:
    assert texts(shop(tmp_path, "item_id:token\tgenre:token_seq", ("a", "Food"))) == ["Food", "", ""]


def test_no_file_of_items_is_told_with_the_columns_looked_for(tmp_path: Path) -> None:
    config = dataset(tmp_path, ROWS)
    wanted = "title or movie_title or app_name or name or .*; genres or genre or class or categories or "
    with pytest.raises(DataError, match=rf"toy\.item is missing.*{wanted}.*drop Text.*\[DATA-027\]"):
        texts(config)


def test_no_text_at_all_is_told_with_the_columns_there_are(tmp_path: Path) -> None:
    config = shop(tmp_path, "item_id:token\tprice:float", ("a", "1"))
    with pytest.raises(DataError, match=r"item_id, price.*title or movie_title.*\[DATA-028\]"):
        texts(config)
    config = shop(tmp_path, "item_id:token\tprice:float\tbrand:token", ("a", "1", " "), title_field="brand")
    with pytest.raises(DataError, match=r"columns brand; genres or genre.*\[DATA-028\]"):
        texts(config)


def test_most_items_without_a_text_are_worth_a_line() -> None:
    assert few_texts_note(["a", ""]) is None  # half of them
    assert "2 of 3 items have no text" in str(few_texts_note(["", "a", ""]))
