"""Data as people have them: every form gives the same corpus, columns are found by their names, and bad files are refused."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softgrpo.config import DataConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.kinds import named_data
from softgrpo.data.tables import TableFile
from softgrpo.data.times import read_times, unit_of
from softgrpo.errors import DataError
from softgrpo.presets import resolve
from tests.softgrpo.data.cases import sequences
from tests.softgrpo.data.forms import FORMS, ROWS, TITLES


def config_of(place: Path, **settings: object) -> DataConfig:
    """Returns the configuration that reads a file or folder, with the filters off."""
    named = {path.partition(".")[2]: value for path, value in named_data(str(place)).items()}
    return DataConfig.model_validate(named | {"k_core": 0, "download": False} | settings)


def written(path: Path, content: str | bytes) -> DataConfig:
    """Writes a file; returns the configuration that reads it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return config_of(path, min_user_items=1)


def digest(place: Path) -> str:
    """Returns the digest of all that a corpus says of who took what and when."""
    corpus = read_corpus(config_of(place), 42)
    parts = (corpus.user, corpus.item, corpus.time, corpus.offsets)
    names = "\n".join([*corpus.users["token"], "", *corpus.items["token"]])
    return hashlib.sha256(b"".join(part.tobytes() for part in parts) + names.encode()).hexdigest()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_corpus(tmp_path: Path, form: str) -> None:
    place = FORMS[form](tmp_path / "own")
    assert digest(place) == digest(FORMS["atomic"](tmp_path / "atomic"))
    corpus = read_corpus(config_of(place), 42)
    assert len(corpus.item) == len(ROWS)
    expected = sorted(ROWS, key=lambda row: (row[0], row[3]))
    assert corpus.time.tolist() == [row[3] for row in expected]
    if corpus.items["title"].any():
        assert [title.replace("é", "") for title in corpus.items["title"]] == [TITLES[item] for item in sorted(TITLES)]


def test_forms_with_files_of_items_and_users(tmp_path: Path) -> None:
    titled = {form for form in FORMS if read_corpus(config_of(FORMS[form](tmp_path / form)), 1).items["title"].all()}
    assert titled == {"atomic", "csv", "ratings.dat", "u.data", "ratings.csv", "amazon 2018", "amazon 2023"}
    assert set(read_corpus(config_of(tmp_path / "u.data"), 1).items["genres"]) == {"Comedy Thriller"}
    assert set(read_corpus(config_of(tmp_path / "amazon 2023"), 1).items["genres"]) == {"Drama, War"}
    assert set(read_corpus(config_of(tmp_path / "u.data"), 1).users["occupation"]) == {"artist"}
    assert read_corpus(config_of(tmp_path / "u.data"), 1).items["title"][0] == "Filmé 1, part one"


def test_a_dataset_is_found_by_its_name_too(tmp_path: Path) -> None:
    FORMS["tsv"](tmp_path / "data")
    FORMS["ratings.csv"](tmp_path / "data" / "films")
    for name in ("shop", "films"):
        config = DataConfig(dataset=name, data_path=tmp_path / "data", k_core=0, download=False)
        assert len(read_corpus(config, 1).item) == len(ROWS)


def test_the_place_of_the_data_changes_no_name_of_a_run(tmp_path: Path) -> None:
    place = FORMS["csv.gz"](tmp_path / "own")
    config = resolve(str(place), "tiny", "debug")
    assert (config.data.dataset, config.data.source) == ("shop", place)
    assert resolve("shop", "tiny", "debug", {"data.source": str(place)}) == config
    assert named_data("ml-100k") == {"data.dataset": "ml-100k"}
    assert named_data("ratings.csv") == {"data.dataset": "ratings", "data.source": "ratings.csv"}


def test_ids_of_any_kind_are_texts_as_they_are_written(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"user": [1, 1, 10, 2], "item": pd.Categorical(["b", "a", "a", "c"]), "time": [2.0, 1.0, 3.0, 4.0]}
    )
    table.to_parquet(tmp_path / "a.parquet")
    assert sequences(read_corpus(config_of(tmp_path / "a.parquet", min_user_items=1), 1)) == {
        "1": ["a", "b"],
        "10": ["a"],
        "2": ["c"],
    }


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    """The setting comes first, then an earlier usual name before a later one; capitals and hyphens do not matter."""
    config = written(tmp_path / "a.csv", "Customer-ID,User ID,asin,parent_asin,Timestamp\nx,u,1,2,5\n")
    assert sequences(read_corpus(config, 1)) == {"u": ["2"]}
    named = config.model_copy(update={"user_field": "Customer-ID", "item_field": "asin"})
    assert sequences(read_corpus(named, 1)) == {"x": ["1"]}


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([1e9, 2e9], "seconds"),
        ([1e12, 2e12], "milliseconds"),
        ([1e15], "microseconds"),
        ([1e18], "nanoseconds"),
        ([1, 2, 3], "a unit of its own"),
        ([1e9, 1e12], "a unit of its own"),
        ([20240131], "a unit of its own"),
        ([20240131120000], "a unit of its own"),
        ([], "a unit of its own"),
    ],
)
def test_the_unit_of_times(times: list[float], unit: str) -> None:
    assert unit_of(np.array(times, dtype=float)) == unit


def test_quoted_fields_may_hold_separators_and_line_feeds(tmp_path: Path) -> None:
    rows = "".join(f'u{n},"i,{n}","said\n""no"" {n}",{n}\n' for n in range(3))
    config = written(tmp_path / "a.csv", "\ufeffuser,item,text,time\r\n" + rows)
    assert sequences(read_corpus(config, 1)) == {f"u{n}": [f"i,{n}"] for n in range(3)}
    late = written(tmp_path / "b.csv", "user,item,text,time\n" + rows + 'u9,i,"x",soon\n')
    with pytest.raises(DataError, match=r"b.csv, line 8: time is 'soon'"):
        read_corpus(late, 1)


HEADER = "user,item,time\n"
GOOD = "u,i,1\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a.csv, line 1: the file is empty.*\[DATA-004\]"),
        ("a.csv", "\n\n", r"a.csv, line 1: the file is empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), r"a.csv.gz, line 1: the file is empty"),
        ("a.csv.gz", gzip.compress((HEADER + GOOD).encode(), mtime=0)[:-9], r"a.csv.gz' cannot be read.*\[DATA-037\]"),
        ("a.csv.gz", b"no gzip", r"a.csv.gz' cannot be read.*\[DATA-037\]"),
        ("a.csv", HEADER, r"a.csv, line 2: there is no row below the header"),
        ("a.csv", "user\nu\n", r"line 1: one column; the only column is 'user'.*two columns or more"),
        ("a.csv", "user;item;time\nu;i;1\n", r"line 1: one column; its fields seem to be separated by ';'.*separated by ','"),
        ("a.tsv", "user,item,time\nu,i,1\n", r"line 1: one column; its fields seem to be separated by ','"),
        ("a.csv", "who,item,time\nu,i,1\n", r"no column 'user_id'.*usual name of the user \(user_id, user, uid.*\[DATA-005\]"),
        ("a.csv", "user,what,time\nu,i,1\n", r"no column 'item_id'.*--data.item_field"),
        ("a.csv", "user,item,stars\nu,i,1\n", r"no column 'timestamp'.*or to null where the order of the file.*\[DATA-005\]"),
        ("a.csv", "user,user,time\nu,i,1\n", r"line 1: the header names a column twice: user, user, time"),
        ("a.csv", "196,242,3,881250949\n186,302,3,891717742\n", r"line 1: '196,242,3,881250949' names no columns"),
        ("a.csv", HEADER.encode() + b"u,i,1\nu,\xe9,2\n", r"line 3: byte 3 of the line is not UTF-8.*one encoding, UTF-8"),
        ("a.csv", HEADER.encode("utf-16"), r"line 1: byte 1 of the line is not UTF-8"),
        ("a.csv", HEADER + GOOD + "u,j\n", r"line 3: 2 fields, the header has 3"),
        ("a.csv", HEADER + GOOD + ",j,2\n", r"line 3: user is empty"),
        ("a.csv", HEADER + GOOD + "\nu,,2\n", r"line 4: item is empty"),
        ("a.csv", HEADER + "u,i,2024-01-31\nu,j,31/01/2024\nu,k,1706659200\n", r"line 3: time is '31/01/2024', not a time of ISO"),
        ("a.csv", HEADER + "u,i,1706659200\nu,j,2024-01-31\n", r"line 3: time is '2024-01-31', not a number as in the first row"),
        ("a.csv", HEADER + "u,i,31/01/2024\n", r"line 2: time is '31/01/2024', neither a number nor a time of ISO 8601"),
        ("a.csv", HEADER + GOOD + "u,j,inf\n", r"line 3: time is 'inf'"),
        ("a.json", '{"user": "u", "item": "i", "time": 1}\n{"user": \n', r"a.json, line 2: no JSON"),
        ("a.jsonl", '{"user": "u", "item": "i", "time": 1}\n["u"]\n', r"a.jsonl, line 2: a list, no object"),
        ("a.jsonl", '{"user": "u", "item": "i", "time": 1}\n{"item": "i", "time": 2}\n', r"line 2: user is empty"),
        ("a.jsonl", "", r"a.jsonl' has no row.*\[DATA-035\]"),
        ("a.parquet", "PAR1", r"a.parquet' cannot be read.*\[DATA-037\]"),
        ("a.xlsx", "x", r"a.xlsx'.*A table is .csv.*\[DATA-034\]"),
        ("ratings.dat", "1::2::3::4\n1::2::3\n", r"ratings.dat, line 2: 3 fields, the header has 4"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    config = DataConfig(dataset="a", source=tmp_path / name, k_core=0, min_user_items=1)
    with pytest.raises(DataError, match=message):
        read_corpus(config, 1)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (pa.array([["a", "b"], ["c"]]), r"column 'item' of the type list<.*no list of values.*\[DATA-043\]"),
        (pa.array([{"a": 1}, {"a": 2}]), r"column 'item' of the type struct<.*\[DATA-043\]"),
        (pa.array([1.5, 2.0]), r"column 'item' of the type double.*\[DATA-044\]"),
        (pa.array(["a", None]), r"line 2: item is empty"),
    ],
)
def test_parquet_of_wrong_types_is_refused(tmp_path: Path, item: pa.Array, message: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user": ["u", "u"], "item": item, "time": [1, 2]}), path)
    with pytest.raises(DataError, match=message):
        read_corpus(config_of(path, min_user_items=1), 1)


def test_parquet_without_rows(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"user": pa.array([], pa.string()), "item": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=r"has no row.*\[DATA-035\]"):
        TableFile.open(tmp_path / "a.parquet")


def test_folders_that_leave_open_which_file_is_which(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(HEADER + GOOD)
    with pytest.raises(DataError, match=r"one.csv, two.csv.*holds interactions, and these all could.*\[DATA-046\]"):
        read_corpus(config_of(tmp_path, min_user_items=1), 1)
    (tmp_path / "ratings.csv").write_text(HEADER + GOOD)
    assert sequences(read_corpus(config_of(tmp_path, min_user_items=1), 1)) == {"u": ["i"]}
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"with no table.*\[DATA-045\]"):
        read_corpus(config_of(empty), 1)
    with pytest.raises(DataError, match=r"is not there.*Did you mean 'one.csv'.*\[DATA-047\]"):
        read_corpus(config_of(tmp_path / "on.csv"), 1)


def test_dates_behind_the_end_of_nanoseconds_are_read() -> None:
    """12:00 on 31 January 3024 is 33,263,611,200 s after 1970."""
    seconds, form = read_times(
        pd.Series(["1970-01-02", "3024-01-31T12:00:00Z"], dtype=str), lambda row, what: DataError(what, "", "")
    )
    assert seconds.tolist() == [86_400.0, 33_263_611_200.0] and form == "ISO 8601"
