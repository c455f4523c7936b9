"""RecBole trains on the training part alone, and scores from full histories."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.errors import RecallerError, StoreError
from softgrpo.recallers.candidate_checks import check_candidates
from softgrpo.recallers.candidates import RecallerModel, build_candidates
from tests.softgrpo.recallers.cases import ITEMS, LENGTH, TRAIN, USERS, corpus_of, cycles, windows_of

pytest.importorskip("recbole")

SEQUENTIAL: dict[str, Any] = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 64}
TINY: dict[str, dict[str, Any]] = {
    "ADMMSLIM": {"center_columns": True},
    "BERT4Rec": {**SEQUENTIAL, "hidden_size": 8, "inner_size": 8},
    "BPR": {"epochs": 2, "embedding_size": 8},
    "DGCF": {"epochs": 2, "embedding_size": 8, "n_iterations": 1},
    "EASE": {"reg_weight": 10.0},
    "FPMC": {**SEQUENTIAL, "embedding_size": 8},
    "GRU4Rec": {**SEQUENTIAL, "embedding_size": 8, "hidden_size": 8},
    "ItemKNN": {"k": 5},
    "LightGCN": {"epochs": 2, "embedding_size": 8, "n_layers": 1},
    "MultiVAE": {"epochs": 2},
    "NeuMF": {"epochs": 2, "mf_embedding_size": 4, "mlp_embedding_size": 4, "mlp_hidden_size": [4]},
    "Pop": {},
    "RecVAE": {"epochs": 2, "hidden_dimension": 8, "latent_dimension": 4},
    "SASRec": {**SEQUENTIAL, "hidden_size": 8, "inner_size": 8},
    "SLIMElastic": {},
}


class Curves:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.points.append((step, dict(values)))

    def info(self, message: str) -> None:
        raise AssertionError(message)


def train(
    name: str,
    work: Path,
    settings: dict[str, Any] | None = None,
    world: tuple[Corpus, Windows] | None = None,
    seed: int = 1,
    targets_per_user: int | None = None,
    reporter: Curves | None = None,
) -> RecallerModel:
    from softgrpo.recallers.recbole_adapter import train_recaller

    corpus, windows = world or cycles()
    chosen = TINY[name] if settings is None else settings
    return train_recaller(
        name, corpus, windows, chosen, seed=seed, targets_per_user=targets_per_user, work=work, reporter=reporter
    )


def scores_of(model: RecallerModel, corpus: Corpus, users: list[int], stop: int) -> torch.Tensor:
    return model.score(np.array(users, dtype=np.int64), [corpus.sequence(user)[:stop] for user in users])


def test_recbole_gets_the_training_part_and_nothing_else(tmp_path: Path) -> None:
    corpus, _ = cycles()
    train("Pop", tmp_path)
    lines = (tmp_path / "training" / "training.inter").read_text().splitlines()
    assert lines[0] == "user_id:token\titem_id:token\ttimestamp:float"
    written = [tuple(int(value) for value in line.split("\t")) for line in lines[1:]]
    expected = [
        (user, int(item), place) for user in range(USERS) for place, item in enumerate(corpus.sequence(user)[:TRAIN])
    ]
    assert written == expected


@pytest.mark.parametrize("name", ["BPR", "SASRec", "ItemKNN"])
def test_later_interactions_change_nothing(tmp_path: Path, name: str) -> None:
    corpus, windows = cycles()
    later = np.arange(len(corpus.item)) - corpus.offsets[corpus.user] >= TRAIN
    other = corpus_of([[int(item) for item in corpus.sequence(user)] for user in range(USERS)], corpus.num_items)
    other.item[later] = (other.item[later] + 7) % ITEMS
    one = scores_of(train(name, tmp_path / "a"), corpus, [0, 5], TRAIN)
    two = scores_of(train(name, tmp_path / "b", world=(other, windows)), corpus, [0, 5], TRAIN)
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_kind_scores_saves_and_loads(tmp_path: Path, name: str) -> None:
    from softgrpo.recallers.recbole_adapter import load_recaller

    corpus, windows = cycles()
    model = train(name, tmp_path / "work")
    scores = scores_of(model, corpus, [3, 0, 3, 8], TRAIN)
    assert scores.shape == (4, ITEMS + 1)
    assert scores.dtype == torch.float32
    assert (scores[:, ITEMS] == -torch.inf).all()  # the item that training never saw
    assert torch.isfinite(scores[0]).any()
    torch.testing.assert_close(scores[0], scores[2])  # the same user with the same history
    model.save(tmp_path / "saved")
    again = load_recaller(tmp_path / "saved", corpus)
    assert again.name == model.name == name
    assert torch.equal(scores_of(again, corpus, [3, 0, 3, 8], TRAIN), scores)
    items, values = build_candidates(again, corpus, windows, 7, 10, name)
    check_candidates(CandidateLists((name,), items[:, None], values[:, None]), corpus, windows)


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "MultiVAE", "SASRec"])
def test_the_same_seed_gives_the_same_recaller(tmp_path: Path, name: str) -> None:
    corpus, _ = cycles()
    users = list(range(USERS))
    one, two, three = (
        scores_of(train(name, tmp_path / str(n), seed=s), corpus, users, TRAIN) for n, s in enumerate((1, 1, 2))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@pytest.mark.parametrize("name", ["EASE", "GRU4Rec", "ItemKNN", "MultiVAE"])
def test_the_full_history_is_read(tmp_path: Path, name: str) -> None:
    corpus, _ = cycles()
    model = train(name, tmp_path)
    assert not torch.equal(scores_of(model, corpus, [4], TRAIN), scores_of(model, corpus, [4], LENGTH))


def test_user_embeddings_stay_as_trained(tmp_path: Path) -> None:
    corpus, _ = cycles()
    model = train("BPR", tmp_path)
    assert torch.equal(scores_of(model, corpus, [4], TRAIN), scores_of(model, corpus, [4], LENGTH))


def test_pop_scores_are_shares_of_the_most_frequent_item(tmp_path: Path) -> None:
    corpus = corpus_of([[0, 1], [0, 2], [0, 1], [3, 4, 4]], 5)
    world = corpus, windows_of([(0, 1, 2)], [2, 2, 2, 1])  # item 4 lies behind every training part
    scores = train("Pop", tmp_path, world=world).score(np.array([0]), [np.array([0], np.int32)])
    assert scores[0].tolist() == pytest.approx([3 / 3, 2 / 3, 1 / 3, 1 / 3, -np.inf])


def test_item_knn_scores_are_sums_of_cosines(tmp_path: Path) -> None:
    corpus = corpus_of([[0, 1], [0, 1, 2], [0], [2, 1, 1]], 3)
    world = corpus, windows_of([(0, 1, 2)], [2, 3, 1, 1])
    scores = train("ItemKNN", tmp_path, {"k": 3}, world=world).score(
        np.array([0, 0]), [np.array([0]), np.array([0, 2])]
    )
    # users of item 0: {0, 1, 2}, of item 1: {0, 1}, of item 2: {1, 3}
    cosine_01, cosine_02, cosine_12 = 2 / np.sqrt(3 * 2), 1 / np.sqrt(3 * 2), 1 / np.sqrt(2 * 2)
    assert scores[0].tolist() == pytest.approx([-np.inf, cosine_01, cosine_02], rel=1e-4)
    assert scores[1].tolist() == pytest.approx([cosine_02, cosine_01 + cosine_12, cosine_02], rel=1e-4)


def test_users_with_few_training_items_are_legal(tmp_path: Path) -> None:
    corpus = corpus_of([[0, 1, 2], [1, 2, 3], [2, 1, 0], [0, 1, 2], [2, 0, 1]], 4)
    world = corpus, windows_of([(3, 1, 2), (4, 0, 1)], [3, 3, 2, 1, 0])
    users = np.array([3, 4, 0])
    past = [np.array([0], np.int32), np.array([], np.int32), np.array([0, 1, 2], np.int32)]
    bpr = train("BPR", tmp_path / "bpr", world=world).score(users, past)
    assert torch.isfinite(bpr).any(dim=1).tolist() == [True, False, True]  # user 4 has no training item
    sasrec = train("SASRec", tmp_path / "sasrec", world=world).score(users, past)
    assert torch.isfinite(sasrec).any(dim=1).tolist() == [True, False, True]  # the second history is empty


def test_a_sequential_recaller_needs_two_training_items(tmp_path: Path) -> None:
    corpus = corpus_of([[0, 1, 2], [1, 2, 0]], 3)
    with pytest.raises(RecallerError, match=r"\[RECALLER-006\]"):
        train("SASRec", tmp_path, world=(corpus, windows_of([(0, 1, 2)], [1, 1])))


def test_no_training_interaction_is_an_error(tmp_path: Path) -> None:
    corpus = corpus_of([[0, 1, 2], [1, 2, 0]], 3)
    with pytest.raises(RecallerError, match=r"\[RECALLER-004\]"):
        train("BPR", tmp_path, world=(corpus, windows_of([(0, 1, 2)], [0, 0])))


def test_targets_per_user_limits_the_rows_of_sequential_models(tmp_path: Path) -> None:
    from softgrpo.recallers.recbole_model import RecBoleRecaller

    rows = {}
    for limit in (None, 2):
        model = train("SASRec", tmp_path / str(limit), targets_per_user=limit)
        assert isinstance(model, RecBoleRecaller)
        rows[limit] = len(model.data.train)
    # 6 training items make 5 targets; the last one is held back for early stopping
    assert rows == {None: USERS * 4, 2: USERS * 2}


def test_sasrec_learns_the_cycles(tmp_path: Path) -> None:
    corpus, windows = cycles()
    settings = {
        **TINY["SASRec"],
        "hidden_size": 32,
        "epochs": 20,
        "learning_rate": 0.02,
        "train_batch_size": 48,
        "eval_step": 10,
    }
    curves = Curves()
    model = train("SASRec", tmp_path, settings, reporter=curves)
    items, _ = build_candidates(model, corpus, windows, 3, 8, "SASRec")
    targets = np.array([corpus.sequence(user)[TRAIN] for user in windows.user])
    assert (items[:, 0] == targets).mean() > 0.8
    losses = [values["recall_loss"] for _, values in curves.points if "recall_loss" in values]
    valid = [values["recall_valid_ndcg"] for _, values in curves.points if "recall_valid_ndcg" in values]
    assert losses[-1] < losses[0]
    assert max(valid) > 0.8


def test_the_weights_of_the_best_epoch_are_kept(tmp_path: Path) -> None:
    from softgrpo.recallers.recbole_model import RecBoleRecaller

    curves = Curves()
    settings = {"epochs": 12, "learning_rate": 0.05, "embedding_size": 8, "stopping_step": 20}
    model = train("BPR", tmp_path, settings, reporter=curves)
    valid = {step: values["recall_valid_ndcg"] for step, values in curves.points if "recall_valid_ndcg" in values}
    best = max(valid, key=lambda step: (valid[step], step))  # RecBole takes the later of equal epochs
    assert isinstance(model, RecBoleRecaller)
    short = train("BPR", tmp_path, {**settings, "epochs": best})
    corpus, _ = cycles()
    assert torch.equal(scores_of(model, corpus, [0, 1], TRAIN), scores_of(short, corpus, [0, 1], TRAIN))


@pytest.mark.parametrize("name", ["BPR", "SASRec", "EASE"])
def test_nothing_is_held_back_where_the_epochs_are_known(tmp_path: Path, name: str) -> None:
    """All of the settings' epochs on all items: the last item of every user is trained on, and what is stored opens the same."""
    from softgrpo.recallers.recbole_adapter import load_recaller, train_recaller

    corpus, windows = cycles()
    whole = replace(windows, train_end=np.diff(corpus.offsets).astype(np.int32))
    curves = Curves()
    options: dict[str, Any] = {"seed": 1, "targets_per_user": None, "reporter": curves}
    model = train_recaller(name, corpus, whole, TINY[name], work=tmp_path / "work", hold_back=False, **options)
    if name != "EASE":
        trained = model.data.train.inter_feat  # type: ignore[attr-defined]
        assert len(trained) == len(corpus.item) - (corpus.num_users if name == "SASRec" else 0)
        assert [point for point in curves.points if "recall_valid_ndcg" in point[1]] == []
        assert [step for step, _ in curves.points] == [1, 2]
    model.save(tmp_path / "model")
    opened = load_recaller(tmp_path / "model", corpus)
    torch.testing.assert_close(
        scores_of(model, corpus, [0, 1], LENGTH), scores_of(opened, corpus, [0, 1], LENGTH), rtol=0, atol=0
    )


def test_divergence_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecallerError, match=r"training loss of BPR became.*\[RECALLER-008\]"):
        train("BPR", tmp_path, {"epochs": 50, "learning_rate": 1e38, "train_batch_size": 16, "learner": "sgd"})


def test_what_recbole_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(RecallerError, match=r"RecBole refuses to train SASRec: ValueError.*\[RECALLER-005\]"):
        train("SASRec", tmp_path, {"n_heads": 7})


def test_a_folder_without_a_recaller(tmp_path: Path) -> None:
    from softgrpo.recallers.recbole_adapter import load_recaller

    with pytest.raises(StoreError, match=r"recaller\.json is missing.*\[STORE-023\]"):
        load_recaller(tmp_path, cycles()[0])


def test_the_process_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prog", "--epochs=0", "--learning_rate=oops"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    caplog.set_level(logging.INFO)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    train("MultiVAE", tmp_path / "work").score(np.array([0]), [np.array([1], np.int32)])
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert sys.argv[1] == "--epochs=0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert [path.name for path in tmp_path.iterdir()] == ["work"]  # no log_tensorboard, no saved
    assert not caplog.records
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "answers"), [("BPR", False), ("FPMC", False), ("SASRec", True), ("ItemKNN", True), ("Pop", True)]
)
def test_a_user_that_is_not_in_the_corpus(name: str, answers: bool, tmp_path: Path) -> None:
    """Number -1: models that read the history alone answer as for anybody; those with something of each user give nothing."""
    model = train(name, tmp_path)
    corpus, _ = cycles()
    history = corpus.sequence(2)[:6]
    known, stranger = model.score(np.array([2, -1]), [history, history])
    assert torch.isfinite(known).any()
    if answers:
        torch.testing.assert_close(stranger, known)
    else:
        assert not torch.isfinite(stranger).any()
