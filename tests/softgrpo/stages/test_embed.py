"""The stage `embed`: each different text once, in pieces that survive; and a pool with `Text`, from files to the stage `check`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.common.records import Part
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.errors import DataError, PolicyError
from softgrpo.pipeline.preflight import preflight
from softgrpo.pipeline.run import RunResult, run_standalone
from softgrpo.presets import resolve
from softgrpo.recallers.candidates import read_candidates
from softgrpo.stages import embed
from softgrpo.stages.embed import different_texts, pieces, write_embeddings
from tests.softgrpo.data.cases import INTER, Row, write_table
from tests.support.toy_policy import save_base, toy_decoder, toy_tokenizer

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
    yield resolve("shop", "tiny", overrides=settings(folder))


def settings(folder: Path, **said: object) -> dict[str, Any]:
    """Returns the settings of a pool with `Text`, whose language model is a decoder without a padding token."""
    model = save_base(folder / "model", toy_decoder(), toy_tokenizer(pad=False))
    data = {"data.data_path": str(folder), "data.download": False, "data.k_core": 0, "split.window": 1}
    small = {"recall.depth": 20, "fusion.k": 2, "evaluation.ks": [5], "text.model_name": model, "text.max_length": 32}
    return {**data, **small, "recall.recallers": ["pop", "TEXT"], "evaluation.baselines": [], **said}


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
