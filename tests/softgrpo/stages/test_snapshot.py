"""The stage `snapshot`: what is there now is taken whole, and a data set that lost something is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from softgrpo.common.embeddings import create_embeddings, load_embeddings
from softgrpo.common.records import Corpus
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus, read_corpus, write_corpus
from softgrpo.data.windows import load_windows
from softgrpo.errors import DataError
from softgrpo.pipeline.run import LogReporter
from softgrpo.recallers.fitted_plugin import PluginRecaller
from softgrpo.stages import embed_snapshot, refit_plugin, snapshot
from softgrpo.stages.contract import StageContext
from softgrpo.stages.snapshot import check_grown
from tests.softgrpo.data.cases import dataset, sequences, write_table

THEN = [("b", "2", 1), ("b", "4", 2), ("d", "4", 1), ("d", "6", 2)]
NEW = [("b", "3", 3), ("a", "6", 1), ("a", "2", 2)]


def shop(folder: Path, rows: list[tuple[str, str, int]]) -> ExperimentConfig:
    config = dataset(folder, rows)
    write_table(folder / "toy" / "toy.user", "user_id:token\tage:token", [(user, 30) for user in "abd"])
    write_table(folder / "toy" / "toy.item", "item_id:token\ttitle:token_seq", [(item, f"T{item}") for item in "2346"])
    return ExperimentConfig().model_copy(update={"data": config})


def take(folder: Path, config: ExperimentConfig, then: Corpus) -> dict[str, float]:
    for name in ("split", "out"):
        (folder / name).mkdir()
    write_corpus(folder / "split", then)
    inputs = {"split": folder / "split"}
    return snapshot.run(StageContext(config, "", inputs, folder / "out", folder, LogReporter("snapshot")))


def test_everything_of_now_is_for_training(tmp_path: Path) -> None:
    then = read_corpus(shop(tmp_path / "then", THEN).data, 1)
    metrics = take(tmp_path, shop(tmp_path / "now", THEN + NEW), then)
    now, windows = load_corpus(tmp_path / "out"), load_windows(tmp_path / "out")
    assert sequences(now) == {"a": ["6", "2"], "b": ["2", "4", "3"], "d": ["4", "6"]}
    assert windows.train_end.tolist() == [2, 3, 2] and len(windows) == 0
    assert metrics == {
        **{"users": 3, "items": 4, "interactions": 7},
        **{"new_users": 1, "new_items": 1, "new_interactions": 3},
    }


def without_users(corpus: Corpus) -> Corpus:
    return replace(corpus, users=corpus.users.assign(token=["x", "y"]))


SHRUNK: dict[str, tuple[Callable[[Corpus], Corpus], str]] = {
    "user": (without_users, r"2 of the run's 2 users are gone: b, d"),
    "item": (lambda now: replace(now, items=now.items.assign(token=["2", "5", "7"])), r"2 of the run's 3 items.*4, 6"),
    "titles": (lambda now: replace(now, items=now.items.assign(title="")), "what was known of items is gone: title"),
    "field": (lambda now: replace(now, users=now.users[["token"]]), "what was known of users is gone: age"),
    "rows": (lambda now: replace(now, offsets=np.array([0, 1, 4])), "1 users have fewer interactions.*: b"),
}


@pytest.mark.parametrize("name", SHRUNK)
def test_what_lost_something_is_refused(name: str, tmp_path: Path) -> None:
    then = read_corpus(shop(tmp_path, THEN).data, 1)
    check_grown(then, then)
    shrink, message = SHRUNK[name]
    with pytest.raises(DataError, match=message):
        check_grown(then, shrink(then))


def test_known_texts_keep_their_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 3 is new, and its text alone is read; the others' rows are those of the run, at their new places."""
    read: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        read.extend(texts)
        return np.full((len(texts), 2), 7, dtype=np.float32)

    monkeypatch.setattr(embed_snapshot, "encoder_of", lambda config: SimpleNamespace(embed=embed))
    then = read_corpus(shop(tmp_path / "then", THEN).data, 1)
    config = shop(tmp_path / "now", THEN + NEW)
    take(tmp_path, config, then)
    inputs = {name: tmp_path / name for name in ("split", "embed")} | {"snapshot": tmp_path / "out"}
    for name in ("embed", "made"):
        (tmp_path / name).mkdir()
    stored = create_embeddings(tmp_path / "embed" / "embeddings.safetensors", 3, 2)
    stored[:] = [[1, 2], [3, 4], [5, 6]]
    context = StageContext(config, "", inputs, tmp_path / "made", tmp_path, LogReporter("embed"))
    metrics = embed_snapshot.run(context)
    assert read == ["T3"] and metrics["new_texts"] == 1
    assert load_embeddings(tmp_path / "made" / "embeddings.safetensors").tolist() == [[1, 2], [7, 7], [3, 4], [5, 6]]


def test_a_plug_in_is_fitted_on_everything(tmp_path: Path) -> None:
    pytest.importorskip("implicit")
    then = read_corpus(shop(tmp_path / "then", THEN).data, 1)
    config = shop(tmp_path / "now", THEN + NEW)
    take(tmp_path, config, then)
    (tmp_path / "als").mkdir()
    context = StageContext(
        config, "ALS", {"snapshot": tmp_path / "out"}, tmp_path / "als", tmp_path, LogReporter("ALS")
    )
    assert refit_plugin.run(context) == {"training_interactions": 7.0}
    model = PluginRecaller.load(tmp_path / "als" / "model")
    assert model.trained.all() and model.score(np.array([0]), [np.array([0], np.int32)]).shape == (1, 4)
