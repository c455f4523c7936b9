"""Lists from a file of another system: what they become, and every row that cannot be right."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.errors import CandidateError, ConfigError, RecallerError
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import LogReporter, run_node
from softgrpo.presets import resolve
from softgrpo.presets.pools import resolve_pools
from softgrpo.recallers.candidate_checks import check_candidates
from softgrpo.recallers.from_file import read_lists, read_parts
from softgrpo.recallers.registry import check_pool
from tests.softgrpo.recallers.cases import corpus_of, windows_of

DEPTH = 3
NAN = float("nan")
ROWS: list[tuple[Any, ...]] = [
    ("u0", 1, "i3", 0.5),  # row 0
    ("u0", 1, "i1", 2.0),
    ("u0", 1, "i4", 0.5),
    ("u0", 1, "i2", 0.1),  # the fourth of a list of three
    ("u0", 2, None, None),  # nothing for this window
    ("u1", 2, "i0", -7.0),  # row 5
]
"""Lists for the three windows of `world`, in no order."""


def world() -> tuple[Corpus, Windows]:
    """u0 has items 0, 1, 2 with windows behind 1 and 2 items; u1 has 3, 2, 4 with one behind 2."""
    return corpus_of([[0, 1, 2], [3, 2, 4]], 5), windows_of([(0, 1, 2), (0, 2, 3), (1, 2, 3)], [1, 1])


def write(path: Path, rows: list[tuple[Any, ...]], **kinds: str) -> Path:
    pd.DataFrame(rows, columns=["user", "window", "item", "score"]).astype(kinds).to_parquet(path, index=False)
    return path


def read(path: Path) -> CandidateLists:
    return read_lists(path, "Mine", *world(), DEPTH)


def test_rows_become_lists(tmp_path: Path) -> None:
    """Best first, equal scores by the item's name, the fourth cut off, an empty list where there is nothing."""
    lists = read(write(tmp_path / "mine.parquet", ROWS))
    assert lists.recallers == ("Mine",)
    assert lists.items[:, 0].tolist() == [[1, 3, 4], [-1, -1, -1], [0, -1, -1]]
    expected = np.array([[2.0, 0.5, 0.5], [NAN] * 3, [-7.0, NAN, NAN]], np.float32)
    np.testing.assert_array_equal(lists.scores[:, 0], expected)
    check_candidates(lists, *world())


@pytest.mark.parametrize("kinds", [{"user": "category", "item": "category"}, {"score": "float32", "window": "Int32"}])
def test_the_type_of_a_column_does_not_matter(tmp_path: Path, kinds: dict[str, str]) -> None:
    lists = read(write(tmp_path / "typed.parquet", ROWS, **kinds))
    assert lists.items.tolist() == read(write(tmp_path / "plain.parquet", ROWS)).items.tolist()


def test_names_that_are_numbers_are_read_as_names(tmp_path: Path) -> None:
    corpus, windows = world()
    corpus.users["token"], corpus.items["token"] = ["7", "8"], list("01234")
    rows = [(7, 1, 3, 1), (7, 2, 4, 1), (8, 2, 0, 1)]
    lists = read_lists(write(tmp_path / "mine.parquet", rows), "Mine", corpus, windows, DEPTH)
    assert lists.items[:, 0, 0].tolist() == [3, 4, 0]


def with_row(*row: Any) -> list[tuple[Any, ...]]:
    return [*ROWS, row]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_row("u9", 1, "i1", 1.0), "1 row with a user that is not in the filtered data: row 6 (user 'u9'"),
        (with_row(None, 1, "i1", 1.0), "1 row with a user that is not in the filtered data: row 6 (user None"),
        (with_row("u0", 1, "i9", 1.0), "1 row with an item that is not in the filtered data: row 6 (user 'u0'"),
        (with_row("u1", 1, "i1", 1.0), "1 row with a window that the user does not have: row 6 (user 'u1', window 1"),
        (with_row("u1", -1, "i1", 1.0), "1 row with a window that the user does not have: row 6 (user 'u1', window -1"),
        (with_row("u1", 99, "i1", 1.0), "1 row with a window that the user does not have: row 6 (user 'u1', window 99"),
        (with_row("u1", 2, "i1", NAN), "1 row with an item whose score is not a finite number: row 6 (user 'u1', window 2"),
        (with_row("u1", 2, "i1", 1e300), "1 row with an item whose score is not a finite number: row 6"),
        (with_row("u1", 2, None, 1.0), "1 row with a score but no item: row 6"),
        (with_row("u1", 2, None, None), "1 row without an item, beside others of the same window: row 6"),
        (with_row("u1", 2, "i0", 3.0), "1 row with the same user, window and item as an earlier one: row 6 (user 'u1'"),
        (with_row("u1", 2, "i3", 1.0), "1 row with an item that is already in the window's history: row 6"),
        (ROWS[:4] + ROWS[5:], "1 of 3 windows have no row: user 'u0', window 2"),
        (ROWS[4:5], "2 of 3 windows have no row: user 'u0', window 1; user 'u1', window 2"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_right_are_named(tmp_path: Path, rows: list[tuple[Any, ...]], message: str) -> None:
    path = write(tmp_path / "mine.parquet", rows)
    with pytest.raises(CandidateError) as caught:
        read(path)
    shown = str(caught.value)
    assert shown.startswith(f"{path} (recaller Mine). Its rows break these rules:")
    assert f"\n  - {message}" in shown
    assert "docs/own-recaller.md has the schema" in shown
    assert shown.count("\n  - ") == 1  # one fault, one line


def test_an_item_of_the_future_is_no_fault(tmp_path: Path) -> None:
    """Window 1 of u0 has item 1 as its target: a recaller may find it, and that is what it is for."""
    assert read(write(tmp_path / "mine.parquet", ROWS)).items[0, 0, 0] == 1


def test_all_faults_are_told_at_once_with_their_first_rows(tmp_path: Path) -> None:
    rows = [*ROWS[:4], *[("u9", 1, f"i{item}", 1.0) for item in range(5)], ("u1", 2, "i1", NAN)]
    with pytest.raises(CandidateError) as caught:
        read(write(tmp_path / "mine.parquet", rows))
    shown = str(caught.value)
    assert "5 rows with a user" in shown and "row 4 (" in shown and "row 6 (" in shown and "row 7 (" not in shown
    assert "; and 2 more" in shown
    assert "not a finite number" in shown and "1 of 3 windows have no row: user 'u0', window 2" in shown


def double(path: Path, column: str) -> None:
    """Gives a file a column twice."""
    table = pq.read_table(path)
    pq.write_table(table.append_column(column, table[column]), path)


def first_page(path: Path) -> int:
    """Returns where the values of the first column begin."""
    with pq.ParquetFile(path) as file:
        return int(file.metadata.row_group(0).column(0).dictionary_page_offset)


def flip(path: Path, place: int) -> None:
    """Turns the bits of sixteen bytes of a file."""
    data = bytearray(path.read_bytes())
    data[place : place + 16] = bytes(255 - byte for byte in data[place : place + 16])
    path.write_bytes(data)


@pytest.mark.parametrize("score", [2**53, 2**53 + 1, -(2**53), 2**63 - 1])
def test_whole_scores_that_cannot_be_told_apart_are_refused(tmp_path: Path, score: int) -> None:
    rows = [(user, window, item, 1) for user, window, item, _ in ROWS if item is not None] + [("u0", 2, "i3", 1)]
    good = write(tmp_path / "good.parquet", rows, score="int64")
    assert read(good).items[:, 0, 0].tolist() == [1, 3, 0]
    rows[0] = (*rows[0][:3], score)
    with pytest.raises(
        CandidateError, match=r"(?s)item whose score is .*2\^53.*: row 0 \(user 'u0', window 1.*\[CANDIDATE-010\]"
    ):
        read(write(tmp_path / "large.parquet", rows, score="int64"))


@pytest.mark.parametrize("window", [2**63, 2**64 - 1])
def test_windows_without_a_sign(tmp_path: Path, window: int) -> None:
    good = write(tmp_path / "good.parquet", ROWS, window="uint64")
    assert read(good).items.tolist() == read(write(tmp_path / "plain.parquet", ROWS)).items.tolist()
    with pytest.raises(CandidateError, match=f"a window that the user does not have: row 6 .*window {window}"):
        read(write(tmp_path / "large.parquet", with_row("u1", window, "i1", 1.0), window="uint64"))


def test_names_are_read_once(tmp_path: Path) -> None:
    """A file of some kilobytes, in which a name of a megabyte stands in thousands of rows, must not take gigabytes."""
    corpus, windows = corpus_of([[0, 1, 2]] * 2000, 5), windows_of([(user, 2, 3) for user in range(2000)], [1] * 2000)
    item = pa.DictionaryArray.from_arrays(pa.array([0] * 8000, pa.int32()), pa.array(["x" * 2**20]))
    users = [f"u{row % 2000}" for row in range(8000)]
    table = pa.table({"user": users, "window": [2] * 8000, "item": item, "score": [1.0] * 8000})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CandidateError, match=r"(?s)8,000 rows with an item .*\[CANDIDATE-010\]") as caught:
        read_lists(tmp_path / "bomb.parquet", "Mine", corpus, windows, DEPTH)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "There is no such file"),
        (lambda path: path.write_text("user,window"), "It must be a Parquet file"),
        (lambda path: pd.DataFrame({"user": ["u0"]}).to_parquet(path), "column 'window' is missing, not whole numbers; column"),
        (lambda path: write(path, [("u0", 1.5, "i1", 1.0)]), "column 'window' is double, not whole numbers"),
        (lambda path: write(path, [(1.0, 1, "i1", 1.0)]), "column 'user' is double, not text or whole numbers"),
        (lambda path: write(path, [("u0", 1, "i1", "best")]), "not numbers"),
        (lambda path: double(path, "item"), "column 'item' is there 2 times, not once"),
        (lambda path: write(path, ROWS * 4), "has 24 rows. Each window of the split lists each item once at most, which makes 18"),
        (lambda path: flip(path, first_page(path)), "cannot be read: "),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "It must be a Parquet file, and a whole one"),
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    path = write(tmp_path / "mine.parquet", ROWS)
    spoil(path)
    with pytest.raises(CandidateError) as caught:
        read(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_file_joins_the_pool_behind_the_named_recallers() -> None:
    def pool(**said: Any) -> tuple[str, ...]:
        overrides = {path.replace("__", "."): value for path, value in said.items()}
        return resolve("ml-100k", "tiny", overrides=overrides).recall.recallers

    assert pool(recall__files__Mine="a.parquet") == ("SASRec", "EASE", "Text", "Mine")
    assert pool(recall__files={"Mine": "a"}, recall__recallers=["ease"]) == ("EASE", "Mine")
    assert pool(recall__files={"Mine": "a"}, recall__recallers=["mine", "EASE"]) == ("Mine", "EASE")
    assert pool(recall__files={"A": "a", "B": "b"}, recall__recallers=[]) == ("A", "B")
    assert pool(recall__files={"A": "a"}, recall__recallers=["TEXT", "ease"]) == ("Text", "EASE", "A")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"recall.files.mine": "a"}, r"recall\.files = mine.*\[CONFIG-062\]"),
        ({"recall.files.BPR": "a", "recall.recallers": ["BPR", "Pop"]}, r"'BPR'.*\[RECALLER-002\]"),
        ({"recall.files.Text": "a", "recall.recallers": ["Text", "Pop"]}, r"'Text'.*by item texts.*\[RECALLER-002\]"),
        ({"recall.recallers": ["text", "Text"]}, r"Text, Text.*\[RECALLER-003\]"),
        ({"recall.recallers": ["Text"]}, r"holds 1: a pool needs at least two recallers.*\[CONFIG-061\]"),
        (
            {"recall.recallers": ["text", "Pop"], "recall.settings.Text.epochs": 3},
            r"Text, which is no RecBole model; its settings are in the section text.*\[CONFIG-061\]",
        ),
        ({"text.fields": []}, r"fields = none; it names at least one column.*\[CONFIG-06"),
        ({"text.fields": ["brand", "brand"]}, r"fields = brand, brand; .* each once.*\[CONFIG-06"),
        ({"recall.files.Mine": "a", "recall.recallers": ["Mine", "mine"]}, r"Mine, Mine.*\[RECALLER-003\]"),
        ({"recall.files.Mine": "a", "recall.settings.Mine.epochs": 3}, r"Mine, which is a file.*\[CONFIG-061\]"),
        ({"recall.files.Mine": "a", "recall.recallers": ["Mein", "Pop"]}, r"'Mein'.*\[RECALLER-011\]"),
    ],
)
def test_names_that_cannot_be(said: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, RecallerError), match=message):
        resolve("ml-100k", "tiny", overrides=said)


def test_the_name_of_a_model_is_not_free() -> None:
    with pytest.raises(RecallerError, match=r"'nais'.*\[RECALLER-002\]"):
        check_pool(["nais", "Pop"], ["nais"])


def test_pools_have_the_files_that_they_name() -> None:
    said = {"recall.files.Mine": "a.parquet"}
    whole, configs = resolve_pools("ml-100k", "tiny", pools=[["BPR", "EASE"], ["BPR", "mine"]], overrides=said)
    assert whole.recall.recallers == ("BPR", "EASE", "Mine")
    assert configs["BPR-EASE"].recall.files == {}
    assert configs["BPR-Mine"].recall.recallers == ("BPR", "Mine")


def test_the_key_is_about_what_the_file_holds(tmp_path: Path) -> None:
    def key(path: Path) -> str:
        config = resolve("ml-100k", "tiny", overrides={"recall.files.Mine": str(path)})
        node = next(node for node in plan(config) if node.name == "recall-Mine")
        return stage_key(node, config, {"split": "same"})

    first = write(tmp_path / "a.parquet", ROWS)
    assert key(first) == key(write(tmp_path / "b.parquet", ROWS))
    assert key(first) != key(write(tmp_path / "c.parquet", ROWS[1:]))


def test_the_stage_stores_the_lists_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from softgrpo.data.corpus import write_corpus
    from softgrpo.data.windows import write_windows
    from softgrpo.pipeline.store import LocalStore
    from tests.support.whole import read_candidates

    split = tmp_path / "split"
    split.mkdir()
    corpus, windows = world()
    write_corpus(split, corpus)
    write_windows(split, windows)
    path = write(tmp_path / "mine.parquet", ROWS)
    config = resolve("ml-100k", "tiny", overrides={"recall.files.Mine": str(path)})
    node = next(node for node in plan(config) if node.name == "recall-Mine")
    store = LocalStore(tmp_path / "stages")
    caplog.set_level("INFO", "softgrpo")
    run_node(node, config, {"split": split}, "key", store, LogReporter("recall-Mine"))
    lists = read_candidates(store.payload("key") / "candidates.parquet")
    assert lists.items[:, 0, :3].tolist() == read(path).items[:, 0].tolist()
    assert lists.depth == config.recall.depth
    assert hashlib.sha256(path.read_bytes()).hexdigest() in caplog.text
    stored = b"".join(file.read_bytes() for file in store.payload("key").iterdir())
    assert str(tmp_path).encode() not in stored


def many() -> tuple[Corpus, Windows]:
    """Returns 30 users with three windows each."""
    rows = [(user, start, start + 1) for user in range(30) for start in (1, 2, 3)]
    return corpus_of([list(range(user % 3, user % 3 + 5)) for user in range(30)], 9), windows_of(rows, [1] * 30)


def many_rows(order: str) -> list[tuple[Any, ...]]:
    """Returns lists of two for each window of `many`, in the order of the windows or in none."""
    rows = [(f"u{user}", start, f"i{item}", 1.0 / item) for user in range(30) for start in (1, 2, 3) for item in (7, 8)]
    return rows if order == "sorted" else [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_a_file_that_is_read_in_parts_gives_the_same_lists(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.parquet"
    pq.write_table(pq.read_table(write(path, many_rows(order))), path, row_group_size=17)
    whole = read_lists(path, "Mine", *many(), DEPTH)
    monkeypatch.setattr("softgrpo.recallers.list_parts.BLOCK", 4)  # eight rows
    parts = list(read_parts(path, "Mine", *many(), DEPTH, most=24))
    assert [len(part.items) for part in parts] == [12] * 7 + [6]
    np.testing.assert_array_equal(np.concatenate([part.items for part in parts]), whole.items)
    np.testing.assert_array_equal(np.concatenate([part.scores for part in parts]), whole.scores)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_a_file_that_is_read_in_parts_has_the_same_problems(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [
        ("u9999", 1, "i1", 1.0),
        ("u3", 7, "i1", 1.0),
        ("u20", 2, "i99", 1.0),
        ("u29", 3, "i8", NAN),
        ("u2", 1, "i7", 3.0),
    ]
    rows = [row for row in many_rows(order) if row[:2] not in (("u5", 2), ("u28", 1))]
    rows = [*rows[:40], *wrong, *rows[40:], *wrong]
    path = tmp_path / "mine.parquet"
    pq.write_table(pq.read_table(write(path, rows)), path, row_group_size=17)
    told = []
    for size in (4_000_000, 24):
        monkeypatch.setattr("softgrpo.recallers.from_file.PART_ROWS", size)
        monkeypatch.setattr("softgrpo.recallers.list_parts.BLOCK", 4)
        with pytest.raises(CandidateError) as caught:
            read_lists(path, "Mine", *many(), DEPTH)
        told.append(str(caught.value))
    assert told[0] == told[1]
    for part in (
        "2 rows with a user",
        "2 rows with a window",
        "2 rows with an item that",
        "row 40 (",
        "2 of 90 windows",
    ):
        assert part in told[0]
