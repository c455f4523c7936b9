"""Files of users: every kind gives the same rows, shards share the users out, and what is wrong is named with its row."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from softgrpo.data import file_pieces, streams
from softgrpo.data.streams import Shard, Stream
from softgrpo.errors import DataError, StoreError

WANTED = {"user": ("user", "user_id"), "item": ("item", "item_id"), "time": ("time", "timestamp")}
TABLE = pd.DataFrame(
    {
        "user_id": [f"u{row % 13}" for row in range(50)],
        "item_id": [str(row) for row in range(50)],
        "timestamp": range(50),
    }
)


def opened(path: Path) -> Stream:
    return Stream.open(path, WANTED, ("user", "item"))


def written(folder: Path, kind: str) -> Path:
    path = folder / f"history.{kind}"
    if kind == "parquet":
        TABLE.to_parquet(path, index=False)
    elif kind == "inter":
        named = TABLE.rename(columns={name: f"{name}:token" for name in TABLE})
        named.to_csv(path, sep="\t", index=False)
    else:
        TABLE.to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "inter"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_pieces, "PIECE", 7)
    stream = opened(written(tmp_path, kind))
    assert stream.columns == {"user": "user_id", "item": "item_id", "time": "timestamp"} and stream.ignored == ()
    assert abs(stream.rows - 50) <= 5
    pieces = list(stream.pieces(Shard(), "user"))
    assert len(pieces) == 8 and np.concatenate([rows for rows, _ in pieces]).tolist() == list(range(50))
    table = pd.concat([table for _, table in pieces])
    assert table["user"].tolist() == TABLE["user_id"].tolist() and table["item"].tolist() == TABLE["item_id"].tolist()
    assert [float(value) for value in table["time"]] == TABLE["timestamp"].tolist()


def test_shards_share_the_users_out(tmp_path: Path) -> None:
    stream = opened(written(tmp_path, "csv"))

    def rows(shard: Shard) -> list[int]:
        return [int(row) for numbers, _ in stream.pieces(shard, "user") for row in numbers]

    shards = [rows(Shard(index, 3)) for index in range(3)]
    assert sorted(itertools.chain(*shards)) == list(range(50)) and all(shards)
    users = [set(TABLE["user_id"][shard]) for shard in shards]
    assert sum(map(len, users)) == 13  # each user is in one of them
    assert sorted(itertools.chain(*(rows(Shard(1, 3).part(index, 4)) for index in range(4)))) == shards[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"cannot be read"),
        ("user,item\n", r"has no row"),
        ("user,thing\nu,1\n", r"columns user, thing.*a column 'item' \(or 'item_id'\)"),
        ("user,user,item\nu,v,1\n", "columns user, user.1, item"),
        ("user,item\n,1\n", "row 1: user is empty"),
        ("user,item\nu,1\nu,1,2,3\n", "cannot be read"),
        ("user,item\nu,1,2\nv,1,2\n", "rows of more fields than the 2 names"),
        ("user,item\nu,\udcff\n", "cannot be read"),
    ],
)
def test_what_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    if "user.1" in message:  # pandas numbers the second; the first is read, and the other one is said not to be
        assert opened(path).ignored == ("user.1",)
        return
    with pytest.raises(DataError, match=message):
        list(opened(path).pieces(Shard(), "user"))


def test_files_that_are_no_such_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no such file"):
        opened(tmp_path / "none.csv")
    for name, content in (("h.parquet", b"PAR1"), ("h.txt", b"user,item\nu,1\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"A table is \.csv, \.tsv, \.json"):
            opened(tmp_path / name)
    pd.DataFrame({"user": [1.0, 2.5], "item": ["a", "b"]}).to_parquet(tmp_path / "decimal.parquet")
    with pytest.raises(DataError, match="user is of the type float64"):
        list(opened(tmp_path / "decimal.parquet").pieces(Shard(), "user"))


def test_numbers_name_the_row_that_holds_none(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("user,item,time\nu,1,5\nu,2,yesterday\n")
    stream = opened(path)
    ((rows, table),) = stream.pieces(Shard(), "user")
    with pytest.raises(DataError, match="row 2: time is 'yesterday', no finite number"):
        stream.numbers(rows, table["time"], "time")


def test_rows_of_files_that_are_read_at_once_are_about_those_of_their_lines(tmp_path: Path) -> None:
    """By the bytes alone a JSON file of 50 rows had 2,400 and was read many times, each time for other users."""
    lines = [json.dumps({"user_id": f"u{row}", "item_id": f"i{row}", "timestamp": row}) + "\n" for row in range(50)]
    (tmp_path / "h.jsonl").write_text("".join(lines))
    assert 45 <= opened(tmp_path / "h.jsonl").rows <= 55
    (tmp_path / "h.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    assert 45 <= opened(tmp_path / "h.jsonl.gz").rows <= 500


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_parts_are_the_rows_of_their_shards(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over the file sorts the rows of every third user into four parts; one part has no user here."""
    monkeypatch.setattr(file_pieces, "PIECE", 7)
    monkeypatch.setattr(streams, "PIECE", 7)
    stream, shard = opened(written(tmp_path, kind)), Shard(1, 3)
    parts = stream.in_parts(shard, "user", 4, tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) < 4, "a case without a row is there too"
    for place, part in enumerate(parts):
        expected = list(stream.pieces(shard.part(place, 4), "user"))
        found = list(part.pieces(shard.part(place, 4), "user"))
        numbers = [
            np.concatenate([np.empty(0, np.int64), *(each for each, _ in pieces)]) for pieces in (expected, found)
        ]
        np.testing.assert_array_equal(*numbers)
        for key in stream.columns:
            values = [[value for _, table in pieces for value in table[key]] for pieces in (expected, found)]
            assert values[0] == values[1]
        assert part.wrong(3, "x").args == stream.wrong(3, "x").args


@pytest.mark.parametrize("damage", ["a batch", "a few bytes", "all"])
def test_a_part_that_is_damaged_is_not_taken_for_whole(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_pieces, "PIECE", 7)
    (part,) = opened(written(tmp_path, "csv")).in_parts(Shard(), "user", 1, tmp_path)
    if damage == "a batch":  # a stream of Arrow that ends before its end mark is a shorter one
        with pa.ipc.open_stream(part.stored) as reader:
            first, *others = list(reader)
        with pa.ipc.new_stream(part.stored, first.schema) as writer:
            writer.write_batch(first)
        assert others
    elif damage == "a few bytes":
        part.stored.write_bytes(part.stored.read_bytes()[:-40])
    else:
        part.stored.unlink()
    with pytest.raises(StoreError, match=r"rows of '.*\.csv'.*Temporary files must stay.*STORE-050"):
        list(part.pieces(Shard(), "user"))
