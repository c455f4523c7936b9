"""From files to an ordered, filtered corpus: order, ties, repeats, filters, columns, and the round trip to disk."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softgrpo.common.records import Corpus
from softgrpo.config import DataConfig
from softgrpo.data.corpus import load_corpus, read_corpus, write_corpus
from softgrpo.data.interactions import tie_hash
from softgrpo.data.locate import locate
from softgrpo.errors import DataError
from tests.softgrpo.common.test_scratch import lies_in_a_file
from tests.softgrpo.data.cases import INTER, Row, dataset, sequences, write_table

RATED = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def test_order_is_time_and_numbers_are_tokens_in_order(tmp_path: Path) -> None:
    config = dataset(tmp_path, [("b", "y", 3), ("a", "z", 5), ("b", "x", 1), ("a", "x", 4), ("b", "z", 2)])
    corpus = read_corpus(config, 1)
    assert corpus.users["token"].tolist() == ["a", "b"]
    assert corpus.items["token"].tolist() == ["x", "y", "z"]
    assert corpus.user.tolist() == [0, 0, 1, 1, 1]
    assert corpus.item.tolist() == [0, 2, 0, 2, 1]
    assert corpus.time.tolist() == [4, 5, 1, 2, 3]
    assert corpus.offsets.tolist() == [0, 2, 5]
    assert (corpus.num_users, corpus.num_items) == (2, 3)
    assert (corpus.user.dtype, corpus.item.dtype, corpus.time.dtype) == (np.int32, np.int32, np.float64)


def test_of_repeated_pairs_the_first_in_time_stays(tmp_path: Path) -> None:
    config = dataset(tmp_path, [("a", "x", 9), ("a", "y", 5), ("a", "x", 1), ("b", "x", 7), ("a", "x", 5)])
    corpus = read_corpus(config, 1)
    assert sequences(corpus) == {"a": ["x", "y"], "b": ["x"]}
    assert corpus.time.tolist() == [1, 5, 7]


TIED: list[Row] = [("a", f"i{item:02d}", 7) for item in range(12)]


def test_hashed_ties_do_not_know_the_order_of_the_file(tmp_path: Path) -> None:
    shuffled = random.Random(5).sample(TIED, len(TIED))
    one = sequences(read_corpus(dataset(tmp_path / "1", TIED), 1))
    assert one == sequences(read_corpus(dataset(tmp_path / "2", shuffled), 1))
    assert one["a"] != [row[1] for row in TIED]


def test_hashed_ties_depend_on_the_seed_the_user_and_the_item(tmp_path: Path) -> None:
    orders = [sequences(read_corpus(dataset(tmp_path, TIED), seed))["a"] for seed in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    rows = [*TIED, *(("b", item, time) for _, item, time in TIED)]
    both = sequences(read_corpus(dataset(tmp_path, rows), 1))
    assert both["a"] == orders[1]  # another user changes nothing
    assert both["a"] != both["b"]


def test_the_tie_hash_is_the_same_everywhere() -> None:
    """Stored splits rest on these numbers."""
    user, item = pd.Series(["a", "a", "b"]), pd.Series(["x", "y", "x"])
    assert tie_hash(user, item, 42).tolist() == [9456485319393732150, 7837796837287719785, 9856007562549922451]


def test_file_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [("a", "z", 7), ("a", "x", 7), ("a", "w", 3), ("a", "y", 7)]
    assert sequences(read_corpus(dataset(tmp_path, rows, ties="file"), 1)) == {"a": ["w", "z", "x", "y"]}


def test_without_times_the_file_gives_the_order(tmp_path: Path) -> None:
    rows = [("a", "z"), ("b", "x"), ("a", "x"), ("a", "z")]
    corpus = read_corpus(dataset(tmp_path, rows, "user_id:token\titem_id:token", time_field=None), 1)
    assert sequences(corpus) == {"a": ["z", "x"], "b": ["x"]}
    assert np.isnan(corpus.time).all()


def test_k_core_is_repeated_until_nothing_changes(tmp_path: Path) -> None:
    """c has one item and goes; then z has one user (b) and goes; then b has one item left and goes; then x and y have one user."""
    chain = [("a", "x", 1), ("a", "y", 2), ("b", "y", 1), ("b", "z", 2), ("c", "z", 1)]
    core = [("d", "p", 1), ("d", "q", 2), ("e", "p", 1), ("e", "q", 2)]
    assert sequences(read_corpus(dataset(tmp_path, chain + core, k_core=2), 1)) == {"d": ["p", "q"], "e": ["p", "q"]}
    assert len(sequences(read_corpus(dataset(tmp_path, chain + core, k_core=1), 1))) == 5
    with pytest.raises(DataError, match=r"'toy'.*\[DATA-007\]"):
        read_corpus(dataset(tmp_path, chain, k_core=2), 1)


def test_repeats_do_not_help_a_user_over_the_core(tmp_path: Path) -> None:
    rows = [("a", "x", 1), ("a", "x", 2), ("b", "x", 1), ("b", "y", 2), ("c", "x", 3), ("c", "y", 1)]
    assert set(sequences(read_corpus(dataset(tmp_path, rows, k_core=2), 1))) == {"b", "c"}


def test_short_users_are_dropped(tmp_path: Path) -> None:
    rows = [("a", "x", 1), ("a", "y", 2), ("a", "z", 3), ("b", "x", 1), ("b", "y", 2)]
    corpus = read_corpus(dataset(tmp_path, rows, min_user_items=3), 1)
    assert sequences(corpus) == {"a": ["x", "y", "z"]}


def test_min_rating_keeps_that_rating_and_comes_before_repeats(tmp_path: Path) -> None:
    rows = [("a", "x", 2, 1), ("a", "x", 4, 2), ("a", "y", 3, 3), ("b", "x", 5, 1), ("b", "y", 2.5, 2)]
    corpus = read_corpus(dataset(tmp_path, rows, RATED, min_rating=3), 1)
    assert sequences(corpus) == {"a": ["x", "y"], "b": ["x"]}
    assert corpus.time.tolist() == [2, 3, 1]
    with pytest.raises(DataError, match=r"toy.inter, line 3: rating is '\?'.*\[DATA-004\]"):
        read_corpus(dataset(tmp_path, [rows[0], ("a", "x", "?", 2)], RATED, min_rating=3), 1)
    with pytest.raises(DataError, match=r"\[DATA-006\]"):
        read_corpus(dataset(tmp_path, rows, RATED, min_rating=3, rating_field=None), 1)


def test_max_users_is_a_seeded_sample(tmp_path: Path) -> None:
    rows = [(f"u{user:02d}", item, time) for user in range(30) for time, item in enumerate("xyz")]
    samples = [sorted(sequences(read_corpus(dataset(tmp_path, rows, max_users=4), seed))) for seed in (1, 1, 2)]
    assert [len(sample) for sample in samples] == [4, 4, 4]
    assert samples[0] == samples[1] != samples[2]
    assert samples[0] == sorted(sequences(read_corpus(dataset(tmp_path, rows[::-1], max_users=4), 1)))
    assert len(sequences(read_corpus(dataset(tmp_path, rows, max_users=99), 1))) == 30


def test_titles_and_genres(tmp_path: Path) -> None:
    config = dataset(tmp_path, [("a", "x", 1), ("a", "y", 2), ("a", "z", 3)])
    item = tmp_path / "toy" / "toy.item"
    rows = [("z", " Salt &amp; Pepper ", "Home &gt; Food"), ("x", "X", ""), ("x", "again", "again"), ("q", "Q", "Q")]
    write_table(item, "item_id:token\tmovie_title:token_seq\tclass:token_seq", rows)
    items = read_corpus(config, 1).items
    assert items["title"].tolist() == ["X", "", "Salt & Pepper"]
    assert items["genres"].tolist() == ["", "", "Home > Food"]


def test_columns_of_other_names(tmp_path: Path) -> None:
    header = "who:token\twhat:token\twhen:float"
    names = {"user_field": "who", "item_field": "what", "time_field": "when"}
    config = dataset(tmp_path, [("a", "x", 2), ("a", "y", 1)], header, **names)
    other = {"item_key_field": "id", "title_field": "label", "genre_field": "kind", "user_fields": ["town"]}
    config = DataConfig.model_validate(config.model_dump() | other)
    write_table(
        tmp_path / "toy" / "toy.item", "id:token\ttitle:token\tlabel:token\tkind:token", [("x", "no", "X", "k")]
    )
    write_table(tmp_path / "toy" / "toy.user", "who:token\tage:token\ttown:token", [("a", 3, "Ulm")])
    corpus = read_corpus(config, 1)
    assert sequences(corpus) == {"a": ["y", "x"]}
    assert corpus.items.to_dict("list") == {"token": ["x", "y"], "title": ["X", ""], "genres": ["k", ""]}
    assert corpus.users.to_dict("list") == {"token": ["a"], "town": ["Ulm"]}


def test_user_fields(tmp_path: Path) -> None:
    config = dataset(tmp_path, [("a", "x", 1), ("b", "x", 2)])
    assert read_corpus(config, 1).users.columns.tolist() == ["token"]
    wanted = DataConfig.model_validate(config.model_dump() | {"user_fields": ["age"]})
    with pytest.raises(DataError, match=r"no file of users.*data\.user_fields.*\[DATA-008\]"):
        read_corpus(wanted, 1)
    write_table(tmp_path / "toy" / "toy.user", "user_id:token\tgender:token\tage:token\tzip:token", [("b", "F", 7, 1)])
    assert read_corpus(config, 1).users.to_dict("list") == {"token": ["a", "b"], "age": ["", "7"], "gender": ["", "F"]}
    assert read_corpus(wanted, 1).users.columns.tolist() == ["token", "age"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"user_field": "user"}, "data.user_field"),
        ({"item_field": "item"}, "data.item_field"),
        ({"time_field": "time"}, "data.time_field"),
        ({"min_rating": 3}, "data.rating_field"),
        ({"item_key_field": "asin"}, "data.item_key_field"),
        ({"title_field": "name"}, "data.title_field"),
        ({"genre_field": "kind"}, "data.genre_field"),
        ({"user_fields": ["age"]}, "data.user_fields"),
    ],
)
def test_a_missing_column_names_its_setting(tmp_path: Path, settings: dict[str, object], name: str) -> None:
    config = dataset(tmp_path, [("a", "x", 1)], INTER, **settings)
    write_table(tmp_path / "toy" / "toy.item", "item_id:token\ttitle:token", [("x", "X")])
    write_table(tmp_path / "toy" / "toy.user", "user_id:token\ttown:token", [("a", "Ulm")])
    with pytest.raises(DataError, match=f"--{name}"):
        read_corpus(config, 1)


def test_round_trip(tmp_path: Path) -> None:
    config = dataset(tmp_path, [("b", "y", 3.5), ("a", "z", 5), ("b", "x", 1)])
    write_table(tmp_path / "toy" / "toy.user", "user_id:token\tage:token", [("a", 3)])
    corpus = read_corpus(config, 1)
    write_corpus(tmp_path, corpus)
    again = load_corpus(tmp_path)
    for name in ("user", "item", "time", "offsets"):
        np.testing.assert_array_equal(getattr(again, name), getattr(corpus, name))
        assert getattr(again, name).dtype == getattr(corpus, name).dtype
    pd.testing.assert_frame_equal(again.users, corpus.users, check_dtype=False)
    pd.testing.assert_frame_equal(again.items, corpus.items, check_dtype=False)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Corpus]:
    """Returns the folder of a stored corpus of two users."""
    corpus = read_corpus(dataset(tmp_path, [("b", "y", 3.5), ("a", "z", 5), ("b", "x", 1)]), 1)
    (tmp_path / "split").mkdir()
    write_corpus(tmp_path / "split", corpus)
    return tmp_path / "split", corpus


def test_interactions_are_mapped_and_changes_stay_in_memory(stored: tuple[Path, Corpus]) -> None:
    opened = load_corpus(stored[0])
    for name in ("user", "item", "time"):
        column = getattr(opened, name)
        assert lies_in_a_file(column) and type(column) is np.ndarray
        column[0] = 7
    np.testing.assert_array_equal(load_corpus(stored[0]).item, stored[1].item)


def test_interactions_of_an_earlier_version_are_read(stored: tuple[Path, Corpus]) -> None:
    folder, corpus = stored
    for name in ("user", "item", "time"):
        (folder / f"interactions.{name}.npy").unlink()
    columns = {"user": corpus.user, "item": corpus.item, "time": corpus.time}
    pd.DataFrame(columns).to_parquet(folder / "interactions.parquet", index=False)
    for name, values in columns.items():
        np.testing.assert_array_equal(getattr(load_corpus(folder), name), values)
        assert getattr(load_corpus(folder), name).dtype == values.dtype


@pytest.mark.parametrize("what", ["missing", "cut off", "of another run"])
def test_a_damaged_column_is_refused(stored: tuple[Path, Corpus], what: str) -> None:
    path = stored[0] / "interactions.item.npy"
    whole = path.read_bytes()
    if what == "missing":
        path.unlink()
    elif what == "cut off":
        path.write_bytes(whole[:-4])
    else:
        np.save(path, np.zeros(99, dtype=np.int32))
    with pytest.raises(
        DataError, match=r"columns of \[3, 99\]" if what == "of another run" else "item.npy cannot be read"
    ):
        load_corpus(stored[0])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz"), st.integers(0, 4)), min_size=1), st.randoms()
)
def test_order_against_plain_python(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], rng: random.Random
) -> None:
    """Whatever the file's order: each user's distinct items by first time; only ties are open, and decided once for all."""
    path = tmp_path_factory.mktemp("random")
    first: dict[tuple[object, object], int] = {}
    for user, item, time in sorted(rows, key=lambda row: int(str(row[2]))):
        first.setdefault((user, item), int(str(time)))
    corpus = read_corpus(dataset(path, rows), 3)
    found = sequences(corpus)
    assert {(user, item) for user, items in found.items() for item in items} == set(first)
    assert sum(len(items) for items in found.values()) == len(first)
    times = [[first[user, item] for item in items] for user, items in found.items()]
    assert times == [sorted(row) for row in times]
    assert corpus.time.tolist() == [time for row in times for time in row]
    assert sequences(read_corpus(dataset(path, rng.sample(rows, len(rows))), 3)) == found


def test_ml_100k_as_packaged() -> None:
    """Its numbers, against a 5-core written a second time."""
    config = DataConfig()
    corpus = read_corpus(config, 42)
    table = pd.read_csv(locate(config) / "ml-100k.inter", sep="\t").set_axis(["user", "item", "rating", "time"], axis=1)
    assert len(table) == 100_000
    assert not table.duplicated(["user", "item"]).any()
    size = 0
    while size != len(table):
        size = len(table)
        table = table[table["item"].map(table["item"].value_counts()) >= 5]
        table = table[table["user"].map(table["user"].value_counts()) >= 5]
    assert (table["user"].nunique(), table["item"].nunique(), len(table)) == (943, 1349, 99_287)
    assert (corpus.num_users, corpus.num_items, len(corpus.item)) == (943, 1349, 99_287)
    items = corpus.items["token"].astype(int).to_numpy()
    users = corpus.users["token"].astype(int).to_numpy()
    pairs = pd.DataFrame({"user": users[corpus.user], "item": items[corpus.item], "time": corpus.time.astype(int)})
    merged = pairs.merge(table, on=["user", "item", "time"])
    assert len(merged) == 99_287
    assert ((np.diff(corpus.time) >= 0) | (np.diff(corpus.user) > 0)).all()
    assert corpus.items["title"].ne("").mean() > 0.99
    assert corpus.items.set_index("token").loc["1"].tolist() == ["Toy Story", "Animation Children's Comedy"]
    assert corpus.users.set_index("token").loc["196"].tolist() == ["49", "M", "writer"]
