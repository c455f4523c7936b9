"""The stage `embed`, and a pool with `Text` from files to the stage `check`, with and without an adapter."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.errors import DataError, LeakageError, PolicyError, RecallerError
from softgrpo.pipeline.preflight import preflight
from softgrpo.pipeline.run import RunResult, read_metrics, run_standalone
from softgrpo.presets import resolve
from softgrpo.recallers.by_text import Adapter, TextRecaller
from softgrpo.recallers.evidence import training_input
from softgrpo.recallers.text_adapter import Examples
from softgrpo.stages import embed, recall_text
from softgrpo.stages.embed import different_texts, pieces, write_embeddings
from tests.softgrpo.data.cases import INTER, Row, write_table
from tests.softgrpo.recallers.cases import corpus_of, windows_of
from tests.support.toy_policy import save_base, toy_decoder, toy_tokenizer
from tests.support.whole import read_candidates

TEXTS = ["bb", "", "a", "ccc", "bb", "dddd", "", "a"]


class Lengths:
    """An encoder of which an embedding is a text's length and first letter; it is killed when it reads a certain text."""

    def __init__(self, deadly: str = "") -> None:
        self.read: list[str] = []
        self.deadly = deadly

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.deadly in texts:
            raise KeyboardInterrupt
        self.read += texts
        return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "PIECE", 2)


def embed_all(encoder: Any, folder: Path) -> list[list[float]]:
    """Returns the embeddings of TEXTS after a try of the stage."""
    different, place = different_texts(TEXTS)
    (folder / "work").mkdir(exist_ok=True)
    assert write_embeddings(folder / "e", place, pieces(encoder, different, folder / "work")) == 2
    found: list[list[float]] = load_embeddings(folder / "e").tolist()
    return found


EXPECTED = [[2, 98], [0, 0], [1, 97], [3, 99], [2, 98], [4, 100], [0, 0], [1, 97]]


def test_the_longest_texts_come_first_and_each_comes_once() -> None:
    different, place = different_texts(TEXTS)
    assert different == ["dddd", "ccc", "bb", "a"] and place.tolist() == [2, -1, 3, 1, 2, 0, -1, 3]


def test_every_item_gets_the_embedding_of_its_text(tmp_path: Path) -> None:
    encoder = Lengths()
    assert embed_all(encoder, tmp_path) == EXPECTED and encoder.read == ["dddd", "ccc", "bb", "a"]


def test_what_was_embedded_before_a_kill_is_not_embedded_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_all(Lengths(deadly="a"), tmp_path)
    encoder = Lengths()
    assert embed_all(encoder, tmp_path) == EXPECTED and encoder.read == ["bb", "a"]


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_piece_that_did_not_reach_the_disk_is_made_again(damage: bytes | None, tmp_path: Path) -> None:
    embed_all(Lengths(), tmp_path)
    piece = tmp_path / "work" / "texts-000001.npy"
    piece.write_bytes(piece.read_bytes()[:-3] if damage is None else damage)
    encoder = Lengths()
    assert embed_all(encoder, tmp_path) == EXPECTED and encoder.read == ["bb", "a"]


COLOURS = ("red", "green", "blue")
"""Items 0 to 8 are `red a`, `green a`, ..., `blue c`; item 9 has no text, and nobody has item 8 in the training part."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExperimentConfig]:
    folder = tmp_path_factory.mktemp("shop")
    rows: list[Row] = []
    for user in range(12):
        items = [(user + step) % 8 for step in range(7)] + [9, 8]
        rows += [(f"u{user:02}", f"i{item}", at) for at, item in enumerate(items)]
    write_table(folder / "shop" / "shop.inter", INTER, rows)
    titles: list[Row] = [(f"i{item}", f"{COLOURS[item // 3]} {'abc'[item % 3]}") for item in range(9)]
    write_table(folder / "shop" / "shop.item", "item_id:token\ttitle:token_seq", titles)
    yield resolve("shop", "tiny", overrides=settings(folder, **{"prompt.list_shape": True}))


def settings(folder: Path, **said: object) -> dict[str, Any]:
    """Returns the settings of a pool with `Text`, whose language model is a decoder without a padding token."""
    model = save_base(folder / "model", toy_decoder(), toy_tokenizer(pad=False))
    data = {"data.data_path": str(folder), "data.download": False, "data.k_core": 0, "split.window": 1}
    small = {"recall.depth": 20, "fusion.k": 2, "evaluation.ks": [5], "text.model_name": model, "text.max_length": 32}
    pool = {"recall.recallers": ["pop", "TEXT"], "text.adapter": "off", "evaluation.baselines": []}
    return {**data, **small, **pool, **said}


@pytest.fixture(scope="module")
def made(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    assert not [note for note in preflight(config, "check") if "text" in note]
    return run_standalone(config, "check", output=tmp_path_factory.mktemp("out"))


def test_a_pool_with_text_goes_from_files_to_the_check(config: ExperimentConfig, made: RunResult) -> None:
    assert list(made.folders) == ["split", "embed", "recall-Pop", "recall-Text", "data", "check"]
    found = load_embeddings(made.folders["embed"] / EMBEDDINGS)
    assert found.shape == (10, 16) and not found[9].any() and np.allclose(np.linalg.norm(found[:9], axis=1), 1)
    lists = read_candidates(made.folders["data"] / "candidates.parquet")
    assert lists.recallers == config.recall.recallers == ("Pop", "Text")
    checked = json.loads((made.folders["check"] / "leakage.json").read_text())
    assert checked["recallers_trained_on_nothing"] == 1 and checked["candidates_not_in_histories"] > 0
    prompts = (made.folders["data"] / "example_prompt.txt").read_text()
    assert "\nText: strength" in prompts


def test_an_item_that_nobody_has_in_the_training_part_is_found(made: RunResult) -> None:
    windows, corpus = load_windows(made.folders["split"]), load_corpus(made.folders["split"])
    assert all(8 not in corpus.sequence(user)[: windows.train_end[user]] for user in range(corpus.num_users))
    lists = read_candidates(made.folders["recall-Text"] / "candidates.parquet").items[:, 0]
    test = windows.of(Part.TEST)
    assert (lists[test] == 8).any(1).all() and not (lists == 9).any()


def test_stages_with_text_are_found_again(config: ExperimentConfig, made: RunResult) -> None:
    output = made.folders["split"].parents[1]
    assert run_standalone(config, "check", output=output).reused == tuple(made.folders)
    other = config.model_copy(update={"text": config.text.model_copy(update={"half_life": 5.0})})
    again = run_standalone(other, "recall", output=output)
    assert again.reused == ("split", "embed", "recall-Pop")


def test_what_cannot_work_is_told_before_anything_is_trained(config: ExperimentConfig, tmp_path: Path) -> None:
    def refused(**said: object) -> ExperimentConfig:
        base = {"data.data_path": str(config.data.data_path), **said}
        return resolve("shop", "tiny", overrides=settings(tmp_path, **base))

    with pytest.raises(PolicyError, match=r"text\.max_length = 100.*--text\.max_length.*\[POLICY-016\]"):
        preflight(refused(**{"text.max_length": 100}), "recall")
    with pytest.raises(PolicyError, match=r"--text\.model_name.*\[POLICY-013\]"):
        preflight(refused(**{"text.model_name": "./nowhere"}), "recall")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "shop.inter").write_bytes((config.data.data_path / "shop" / "shop.inter").read_bytes())  # type: ignore[operator]
    with pytest.raises(DataError, match=r"shop\.item is missing.*\[DATA-027\]"):
        preflight(refused(**{"data.data_path": str(tmp_path)}), "recall")


def test_most_items_without_a_text_are_told_in_one_line(config: ExperimentConfig, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "shop.inter").write_bytes((config.data.data_path / "shop" / "shop.inter").read_bytes())  # type: ignore[operator]
    write_table(tmp_path / "shop" / "shop.item", "item_id:token\ttitle:token_seq", [("i0", "red"), ("i1", "blue")])
    notes = preflight(resolve("shop", "tiny", overrides=settings(tmp_path)), "recall")
    assert [note for note in notes if "8 of 10 items have no text" in note]


def test_an_estimate_counts_texts(config: ExperimentConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO):
        run_standalone(config, "recall", output=tmp_path)
    assert "embed 5 s" in caplog.text and "10 items with 9 different texts" in caplog.text


def with_adapter(config: ExperimentConfig, wanted: str) -> ExperimentConfig:
    return config.model_copy(update={"text": config.text.model_copy(update={"adapter": wanted})})


def test_an_adapter_is_trained_on_the_training_part_and_the_check_looks_into_it(
    config: ExperimentConfig, made: RunResult
) -> None:
    folders = run_standalone(with_adapter(config, "on"), "check", output=made.folders["split"].parents[1]).folders
    metrics = read_metrics(folders["recall-Text"])
    curve = json.loads((folders["recall-Text"] / "curves.json").read_text())["recall_valid_ndcg"]
    assert metrics["adapted"] == 1 and metrics["frozen_valid_ndcg"] == curve["value"][0] and curve["step"][:2] == [0, 1]
    assert metrics["adapted_valid_ndcg"] == max(curve["value"][1:])
    assert Adapter.load(folders["recall-Text"] / "model").item.shape == (16, 16)
    corpus, windows = load_corpus(folders["split"]), load_windows(folders["split"])
    expected = {(user, item) for user, end in enumerate(windows.train_end) for item in corpus.sequence(user)[:end]}
    assert set(zip(*(each.tolist() for each in training_input(folders["recall-Text"])), strict=True)) == expected
    checked = json.loads((folders["check"] / "leakage.json").read_text())
    before = json.loads((made.folders["check"] / "leakage.json").read_text())
    looked_for = "targets_looked_for_in_training_inputs"
    assert checked["recallers_trained_on_nothing"] == 0 and checked[looked_for] == 2 * before[looked_for]


def test_an_adapter_that_saw_a_target_is_found_by_the_check(
    config: ExperimentConfig, made: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Examples.of

    def leak(model: TextRecaller, corpus: Corpus, windows: Windows) -> Examples:
        return honest(model, corpus, replace(windows, train_end=windows.train_end + 1))

    monkeypatch.setattr(Examples, "of", leak)
    with pytest.raises(LeakageError, match=r"Text was trained on .* targets.*\[LEAKAGE-005\]"):
        run_standalone(with_adapter(config, "on"), "check", output=tmp_path)


@pytest.mark.parametrize(("found", "adapted"), [(0.9, True), (0.0, False)])
def test_auto_keeps_an_adapter_that_finds_more_on_validation_windows(
    found: float, adapted: bool, config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.4, *[found] * 8])
    monkeypatch.setattr(recall_text, "valid_ndcg", lambda *_: next(values))
    folders = run_standalone(with_adapter(config, "auto"), "recall", output=tmp_path).folders
    metrics = read_metrics(folders["recall-Text"])
    assert metrics["adapted"] == adapted and metrics["frozen_valid_ndcg"] == 0.4
    assert (folders["recall-Text"] / "model" / "adapter.safetensors").is_file() == adapted


@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_without_anything_to_learn_from_auto_stays_off_and_on_is_refused(
    wanted: str, config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Examples(np.empty(0, np.int32), np.empty((0, 5), np.int32), np.empty(0, np.int32))
    monkeypatch.setattr(Examples, "of", lambda *_: empty)
    if wanted == "on":
        with pytest.raises(RecallerError, match=r"next.*text\.adapter off.*\[RECALLER-018\]"):
            run_standalone(with_adapter(config, wanted), "recall", output=tmp_path)
    else:
        folders = run_standalone(with_adapter(config, wanted), "check", output=tmp_path).folders
        assert "adapted" not in read_metrics(folders["recall-Text"])


def test_ndcg_of_validation_windows_by_hand() -> None:
    model = TextRecaller(np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32), 1, 1.0)
    corpus = corpus_of([[0, 2, 1], [1, 2, 0], [0, 3, 1]], 4)
    windows = windows_of([(0, 1, 2), (1, 1, 3), (2, 1, 2)], [1, 1, 1])
    # after 0 come 3, 2, 1: target 2 at rank 2, target 3 at rank 1; after 1 come 2, 3, 0: targets 2 and 0 at ranks 1 and 3
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    expected = (second + (1 + third) / (1 + second) + 1) / 3
    assert recall_text.valid_ndcg(model, corpus, windows, 2) == pytest.approx(expected)
