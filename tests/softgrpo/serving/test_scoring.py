"""Users of a file scored by a run: histories and lists against plain Python, shards and parts against the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from softgrpo.config import DataConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.streams import Shard
from softgrpo.errors import CandidateError, ConfigError, DataError, SoftGRPOError
from softgrpo.flows.results.finished import FinishedRun
from softgrpo.flows.results.scoring import Scored, ScoreOptions, score_run
from softgrpo.serving import scoring
from softgrpo.serving.histories import Histories, open_history, read_histories
from softgrpo.serving.lister import NO_LIST
from softgrpo.serving.router import Router
from tests.softgrpo.data.cases import dataset, sequences
from tests.softgrpo.stages.tiny_run import RECALLERS, TinyRun

SEED = 3


def finished(run: TinyRun) -> FinishedRun:
    from datetime import datetime

    return FinishedRun("abc", "a run", run.config, run.folders, "", datetime(2026, 1, 1), None, {})


def read(path: Path, items: list[str], config: DataConfig, wanted: list[str] | None = None) -> Histories:
    return read_histories(open_history(path, config), Shard(), pd.Index(items, dtype=object), config, SEED, wanted)


def test_histories_of_the_run_s_own_file_are_its_sequences(tmp_path: Path) -> None:
    """Equal times, repeated pairs and ratings below the limit: as `read_corpus` reads them, which is the run's own way."""
    rng = np.random.default_rng(1)
    rows = [
        (f"u{rng.integers(9)}", f"i{rng.integers(30)}", int(rng.integers(12)), int(rng.integers(1, 6)))
        for _ in range(400)
    ]
    header = "user_id:token\titem_id:token\ttimestamp:float\trating:float"
    for ties in ("hash", "file"):
        config = dataset(tmp_path / ties, rows, header, min_rating=3, ties=ties)
        corpus = read_corpus(config, SEED)
        tokens = corpus.items["token"].tolist()
        found = read(tmp_path / ties / "toy" / "toy.inter", tokens, config)
        named = {user: [tokens[item] for item in items] for user, items in zip(found.users, found.items, strict=True)}
        assert named == sequences(corpus)
        assert found.times is not None and all((np.diff(times) >= 0).all() for times in found.times)
        assert found.unordered == 9 and found.strange.tolist() == [0] * 9


def test_a_history_by_hand(tmp_path: Path) -> None:
    """Item 9 is strange, item 1 comes twice, v's rows are out of order, w is asked for and not in the file."""
    path = tmp_path / "h.csv"
    path.write_text("user,item,time\nv,2,50\nu,1,1\nu,9,2\nv,1,40\nu,2,3\nu,1,4\nx,1,1\n")
    found = read(path, ["1", "2"], DataConfig(), ["u", "v", "w"])
    assert dict(zip(found.users, [items.tolist() for items in found.items], strict=True)) == {
        "v": [0, 1],
        "u": [0, 1],
        "w": [],
    }
    assert dict(zip(found.users, found.strange.tolist(), strict=True)) == {"v": 0, "u": 1, "w": 0}
    assert found.times is not None and found.times[0].tolist() == [40.0, 50.0] and found.unordered == 1
    path.write_text("user,item\nv,2\nv,1\n")
    untimed = read(path, ["1", "2"], DataConfig())
    assert untimed.items[0].tolist() == [1, 0] and untimed.times is None  # the order of the file


@pytest.fixture
def files(run: TinyRun, tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    """Six items of each of the run's users and of three new ones, and lists of both recallers for all but one of them."""
    corpus = run.prepared.corpus
    rng = np.random.default_rng(2)
    rows = [(f"u{user}", f"i{item}", step) for user in range(40) for step, item in enumerate(corpus.sequence(user)[:6])]
    rows += [(f"new{user}", f"i{rng.integers(60)}", step) for user in range(3) for step in range(6)]
    pd.DataFrame(rows, columns=["user", "item", "time"]).to_csv(tmp_path / "h.csv", index=False)
    lists = {}
    for name in RECALLERS:
        users = [f"u{user}" for user in range(40)] + ["new0", "new1"]
        listed = [
            (user, f"i{item}", float(-rank)) for user in users for rank, item in enumerate(rng.permutation(60)[:25])
        ]
        lists[name] = tmp_path / f"{name}.parquet"
        pd.DataFrame(listed, columns=["user", "item", "score"]).sample(frac=1, random_state=1).to_parquet(lists[name])
    return tmp_path / "h.csv", lists


def scored(
    run: TinyRun, files: tuple[Path, dict[str, Path]], path: Path, **options: object
) -> tuple[pd.DataFrame, Scored]:
    made = score_run(finished(run), ScoreOptions(files[0], files[1], method="Left", **options), path)  # type: ignore[arg-type]
    return pd.read_parquet(path), made


def test_a_single_recaller_gives_its_own_list(
    run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    """All weight on Left: its best items that the user has not taken, by plain sorting; without a list, the common ones."""
    table, made = scored(run, files, tmp_path / "out.parquet", k=4)
    left, history = pd.read_parquet(files[1]["Left"]), pd.read_csv(files[0])
    for user in ("u0", "u39", "new1"):
        own = left[left["user"] == user].sort_values("score", ascending=False)
        taken = set(history[history["user"] == user]["item"])
        rows = table[table["user"] == user]
        assert rows["item"].tolist() == [item for item in own["item"] if item not in taken][:4]
        assert rows["rank"].tolist() == [1, 2, 3, 4] and (rows["from_Right"] == 0).all()
        assert rows["from_Left"].tolist() == rows["score"].tolist() and (rows["weights"] == "Left").all()
    nobody = table[table["user"] == "new2"]
    assert (nobody["weights"] == "static").all() and len(nobody) == 4
    assert (nobody["without"] == f"Left {NO_LIST}; Right {NO_LIST}").all()
    assert made.users == 43 and made.items == 172 and any("new2" in note for note in made.notes)


@pytest.mark.parametrize("method", ["static", "grpo_multi"])
def test_shards_and_parts_are_the_whole(
    method: str, run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ScoreOptions(files[0], files[1], method=method)

    def ordered(paths: list[Path]) -> pd.DataFrame:
        table = pd.concat([pd.read_parquet(path) for path in paths])
        return table.sort_values(["user", "rank"]).reset_index(drop=True)

    whole = score_run(finished(run), options, tmp_path / "whole.parquet").path
    monkeypatch.setattr(scoring, "ROWS", 1000)
    monkeypatch.setattr(scoring, "BATCH", 5)
    shards = [
        score_run(finished(run), replace(options, shard=Shard(index, 3)), tmp_path / f"{index}.parquet").path
        for index in range(3)
    ]
    exact = method == "static"
    expected, found = ordered([whole]), ordered(shards)
    pd.testing.assert_frame_equal(expected, found, check_exact=exact, **({} if exact else {"atol": 1e-6}))
    assert all(len(pd.read_parquet(path)) for path in shards)


def test_json_holds_the_same_and_nothing_is_half_written(
    run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    table, _ = scored(run, files, tmp_path / "out.parquet", users=["u3", "new2", "nobody"])
    made = score_run(
        finished(run), ScoreOptions(files[0], files[1], ["u3", "new2", "nobody"], method="Left"), tmp_path / "out.json"
    )
    records = json.loads(made.path.read_text(encoding="utf-8"))
    assert [record["user"] for record in records] == ["u3", "new2", "nobody"] == list(dict.fromkeys(table["user"]))
    assert [item["item"] for record in records for item in record["items"]] == table["item"].tolist()
    whole = files[1]["Left"].read_bytes()
    files[1]["Left"].write_bytes(whole[:100])
    with pytest.raises(DataError, match="cannot be read"):
        scored(run, files, tmp_path / "broken.parquet")
    files[1]["Left"].write_bytes(whole)
    files[0].write_text("user,item,time\nu,i1,1\nu,i2,never\n")
    with pytest.raises(DataError, match="row 2: time is 'never'"):
        scored(run, files, tmp_path / "broken.parquet")
    assert not [path for path in tmp_path.iterdir() if "broken" in path.name or path.name.startswith(".")]


def test_what_is_refused(run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method 'magic'"):
        score_run(finished(run), ScoreOptions(files[0], files[1], method="magic"), tmp_path / "o.parquet")
    config = run.config.model_copy(
        update={"recall": run.config.recall.model_copy(update={"files": {"Left": Path("left.parquet")}})}
    )
    foreign = replace(finished(run), config=config)
    with pytest.raises(CandidateError, match=r"no lists of Left.*--lists Left=FILE"):
        score_run(
            foreign, ScoreOptions(files[0], {"Right": files[1]["Right"]}, method="static"), tmp_path / "o.parquet"
        )


def test_the_router_answers_as_the_file(run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    table, _ = scored(run, files, tmp_path / "out.parquet", users=["u3"])
    left, history = pd.read_parquet(files[1]["Left"]), pd.read_csv(files[0])
    own = history[history["user"] == "u3"]
    lists = {
        name: [(item, score) for user, item, score in pd.read_parquet(path).itertuples(index=False) if user == "u3"]
        for name, path in files[1].items()
    }
    assert len(lists["Left"]) == (left["user"] == "u3").sum()
    files_only = {"files": dict.fromkeys(RECALLERS, Path("x"))}
    config = run.config.model_copy(update={"recall": run.config.recall.model_copy(update=files_only)})
    router = Router.load(replace(finished(run), config=config), "Left")
    answer = router.recommend(own["item"].tolist(), user="u3", times=own["time"].tolist(), lists=lists)
    assert [item["item"] for item in answer["items"]] == table["item"].tolist()
    assert answer["weights"] == {"Left": 1.0, "Right": 0.0} and answer["unknown_items"] == 0
    assert router.prompt(own["item"].tolist(), user="u3", lists=lists).startswith("User: green, 6 items")
    stranger = router.recommend(["i1", "unheard", "i1"], lists=lists, k=2)
    assert stranger["unknown_items"] == 1 and len(stranger["items"]) == 2 and stranger["user"] == ""
    with pytest.raises(DataError, match="1 times for 2 items"):
        router.recommend(["i1", "i2"], times=[1.0], lists=lists)


@pytest.mark.parametrize(
    ("asked", "code", "value"),
    [
        ({"history": "i1"}, "DATA-048", "history: 'i1'"),
        ({"history": None}, "DATA-048", "history: None"),
        ({"history": ["i1", 2]}, "DATA-048", "history: 2"),
        ({"times": [1.0, float("nan")]}, "DATA-049", "times: nan"),
        ({"times": ["a", "b"]}, "DATA-049", "times: 'a'"),
        ({"k": 2.5}, "CONFIG-089", "k = 2.5"),
        ({"k": 0}, "CONFIG-089", "k = 0"),
        ({"lists": {"Foo": [("i1", 1.0)]}}, "CANDIDATE-028", "a list of 'Foo'"),
        ({"lists": {"Left": ["i1", "i2"]}}, "DATA-048", "the list of Left"),
        ({"lists": {"Left": [("i1", "high")]}}, "DATA-049", "the scores of Left: 'high'"),
    ],
)
def test_the_router_refuses_what_it_would_misread(
    asked: dict[str, Any], code: str, value: str, run: TinyRun, files: tuple[Path, dict[str, Path]]
) -> None:
    files_only = {"files": dict.fromkeys(RECALLERS, Path("x"))}
    config = run.config.model_copy(update={"recall": run.config.recall.model_copy(update=files_only)})
    router = Router.load(replace(finished(run), config=config), "static")
    given = {"history": ["i1", "i2"], "lists": {name: [("i3", 1.0)] for name in RECALLERS}} | asked
    with pytest.raises(SoftGRPOError) as raised:
        router.recommend(**given)
    assert raised.value.code == code and value in str(raised.value)
    with pytest.raises(DataError, match=r"Router\.load\('d92548'\)"):
        Router.load("d92548")  # type: ignore[arg-type]


def test_only_a_file_of_somebody_is_told_its_order() -> None:
    summary = scoring.ScoringSummary(users=2, unordered=1)
    assert summary.notes() == ["1 of 2 histories were out of the order of their times and were sorted"]
    assert summary.notes(told_order=False) == []  # a data set
