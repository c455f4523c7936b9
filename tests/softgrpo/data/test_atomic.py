"""Atomic files: what is read, and that each malformed file is refused with its name and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from softgrpo.data.atomic import read_atomic, read_header
from softgrpo.data.corpus import read_corpus
from softgrpo.data.usual import require_columns
from softgrpo.errors import DataError
from tests.softgrpo.data.cases import INTER, dataset

GOOD = "a\tx\t1"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_file_is_read_as_text(tmp_path: Path) -> None:
    """Quotes, 'NA', leading zeros and spaces are text like any other."""
    path = written(tmp_path / "t.item", b'item_id:token\ttitle:token_seq\n007\tThe "Best" of NA\n8\t \n')
    assert read_atomic(path).to_dict("list") == {"item_id": ["007", "8"], "title": ['The "Best" of NA', " "]}


@pytest.mark.parametrize(
    "data",
    [
        b"a:token\tb:token\n1\t2\n3\t4\n",
        b"a:token\tb:token\n1\t2\n3\t4",  # no line feed at the end
        b"a:token\tb:token\r\n1\t2\r\n3\t4\r\n",  # lines that end as on Windows
        b"\xef\xbb\xbfa:token\tb:token\n1\t2\n3\t4\n",  # byte order mark
    ],
)
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path, data: bytes) -> None:
    assert read_atomic(written(tmp_path / "t", data)).to_dict("list") == {"a": ["1", "3"], "b": ["2", "4"]}


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    data = "a:token\tb:token\n1\tx\ry\n2\tx\u2028y\n3\tx\x85y\n".encode()
    assert read_atomic(written(tmp_path / "t", data))["b"].tolist() == ["x\ry", "x\u2028y", "x\x85y"]


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        ([], 1, "the file is empty"),
        ([INTER], 2, "no row below the header"),
        (["user_id\titem_id\ttimestamp", GOOD], 1, "column 'user_id' has no type"),
        (["user_id:token\titem_id:\ttimestamp:float", GOOD], 1, "column 'item_id:' has no type"),
        (["user_id:token\tuser_id:token\ttimestamp:float", GOOD], 1, "twice: user_id, user_id, timestamp"),
        ([INTER, GOOD, "a\ty"], 3, "2 fields, the header has 3"),
        ([INTER, GOOD, "a\ty\t2\t3"], 3, "4 fields, the header has 3"),
        ([INTER, GOOD, "", GOOD], 3, "0 fields, the header has 3"),
        ([INTER, GOOD, "a\ty\tnoon"], 3, "timestamp is 'noon'"),
        ([INTER, GOOD, "a\ty\t"], 3, "timestamp is ''"),
        ([INTER, GOOD, "a\ty\tnan"], 3, "timestamp is 'nan'"),
        ([INTER, GOOD, "a\ty\t-inf"], 3, "timestamp is '-inf'"),
        ([INTER, GOOD, GOOD, "\ty\t2"], 4, "user_id is empty"),
        ([INTER, GOOD, GOOD, "a\t \t2"], 4, "item_id is empty"),
        ([INTER, GOOD, "a\t\udcff\t2"], 3, "byte 3 of the line is not UTF-8"),
        (["user_id:token\t\udcff"], 1, "byte 15 of the line is not UTF-8"),
    ],
)
def test_malformed_interactions_are_refused(tmp_path: Path, lines: list[str], line: int, what: str) -> None:
    config = dataset(tmp_path, [])
    path = tmp_path / "toy" / "toy.inter"
    path.write_bytes("".join(f"{text}\n" for text in lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        read_corpus(config, 1)
    assert caught.value.received.startswith(f"{path}, line {line}: ")
    assert what in caught.value.received
    assert caught.value.remedy


def test_the_line_is_right_far_into_a_file(tmp_path: Path) -> None:
    """Text is decoded in blocks; a message must not take the block's line for the bad one."""
    rows = b"1\t2\n" * 5000
    path = written(tmp_path / "t", b"a:token\tb:float\n" + rows + b"1\t\xff\n" + rows)
    with pytest.raises(DataError, match=r"line 5002: byte 3 of the line.*\[DATA-004\]"):
        read_atomic(path)


def test_columns_that_settings_name() -> None:
    require_columns(Path("f.inter"), ["user", "time"], {"data.user_field": "user"})
    with pytest.raises(DataError, match=r"no column 'users'.*--data.user_field.*'user'.*\[DATA-005\]"):
        require_columns(Path("f.inter"), ["user", "time"], {"data.user_field": "users"})


def test_header_without_types(tmp_path: Path) -> None:
    assert read_header(written(tmp_path / "t", b"a:token\tb:float_seq\n")) == ["a", "b"]
