"""A run asked by the numbers of another data set: other numbers of users and items, new ones among them, the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softgrpo.common.records import Corpus
from softgrpo.data.corpus import write_corpus
from softgrpo.flows.results.scoring import ScoreOptions, score_run
from softgrpo.serving.current import Current
from softgrpo.serving.served_run import ServedRun
from tests.softgrpo.serving.test_scoring import files, finished
from tests.softgrpo.stages.tiny_run import RECALLERS, TinyRun

__all__ = ["files"]
USERS, ITEMS = 40, 60


def shuffled(run: TinyRun) -> Corpus:
    """Returns what the recallers trained on with users and items in another order, a new user first and a new item in between."""
    corpus, windows = run.prepared.corpus, run.prepared.windows
    rng = np.random.default_rng(8)
    users, places = rng.permutation(USERS), rng.permutation(ITEMS + 1)
    items = pd.concat([corpus.items, pd.DataFrame([{"token": "new", "title": "New", "genres": ""}])]).iloc[places]
    number = np.argsort(places).astype(np.int32)  # of each item of the run, and of the new one
    sequences = [number[[ITEMS]], *(number[corpus.sequence(user)[: windows.train_end[user]]] for user in users)]
    lengths = [len(sequence) for sequence in sequences]
    table = pd.concat([pd.DataFrame([{"token": "a", "colour": "red"}]), corpus.users.iloc[users]])
    return Corpus(
        users=table.reset_index(drop=True),
        items=items.reset_index(drop=True),
        user=np.repeat(np.arange(USERS + 1), lengths).astype(np.int32),
        item=np.concatenate(sequences),
        time=np.arange(sum(lengths), dtype=float) + 1.0e9,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )


@pytest.fixture(scope="module")
def refit(run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    folder = tmp_path_factory.mktemp("snapshot")
    write_corpus(folder, shuffled(run))
    return replace(run, folders=run.folders | {"snapshot": folder})


@pytest.mark.parametrize("method", ["static", "grpo_multi", "gate_stacking", "ranker", "Left"])
def test_known_users_get_the_same_answers(
    method: str, run: TinyRun, refit: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    """The recallers saw equally much of each item, so numbers, prompts, weights and lists are the same, new users' too."""
    options = ScoreOptions(*files, method=method)
    tables = [
        pd.read_parquet(score_run(finished(each), options, tmp_path / f"{place}.parquet").path)
        for place, each in enumerate((run, refit))
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=method != "grpo_multi", rtol=1e-5)
    assert set(tables[1].loc[tables[1]["user"] == "new2", "weights"]) == {"static"}  # by the common lists


def test_what_is_known_of_now(run: TinyRun, refit: TinyRun, tmp_path: Path) -> None:
    prepared, corpus = refit.prepared, shuffled(run)
    current = Current.of(prepared, refit.folders)
    tokens = corpus.items["token"].tolist()
    assert [tokens[number] for number in current.items] == prepared.corpus.items["token"].tolist()
    assert current.in_run(np.array([-1, 0])).tolist() == [-1, -1]
    assert prepared.corpus.users["token"][current.in_run(np.array([5]))[0]] == corpus.users["token"][5]
    assert current.popularity[tokens.index("new")] == 1 and current.popularity.sum() == len(corpus.item)
    assert current.listed(np.array([[3, -1]], np.int32)).tolist() == [[int(current.items[3]), -1]]
    served = ServedRun.open(refit.config, refit.folders, "static", tmp_path, RECALLERS)
    lists = {name: (np.array([[tokens.index("new"), 3]]), np.array([[2.0, 1.0]], np.float32)) for name in RECALLERS}
    depth = {
        name: (
            np.pad(items, ((0, 0), (0, 18)), constant_values=-1).astype(np.int32),
            np.pad(scores, ((0, 0), (0, 18)), constant_values=np.nan),
        )
        for name, (items, scores) in lists.items()
    }
    answer = served.recommend(["a"], [np.empty(0, np.int32)], None, 2, depth)
    assert answer.items["item"].tolist() == ["new", tokens[3]] and answer.items["title"][0] == "New"


def test_track_records_are_those_of_the_run(run: TinyRun, refit: TinyRun, tmp_path: Path) -> None:
    """A history of all that u3 took holds its four windows; one with another first item holds none."""
    corpus = run.prepared.corpus
    taken = corpus.items["token"].to_numpy(object)[corpus.sequence(3)]
    for each in (run, refit):
        served = ServedRun.open(each.config, each.folders, "static", tmp_path, RECALLERS)
        user = served.user_index.get_indexer(pd.Index(["u3"]))
        history = served.item_index.get_indexer(pd.Index(taken)).astype(np.int32)
        ndcg, rank, windows = served.records(served.current.in_run(user), [history])
        assert windows.tolist() == [4] and (ndcg >= 0).all() and (rank >= 1).all()
        assert served.records(served.current.in_run(user), [history[1:]])[2].tolist() == [0]
