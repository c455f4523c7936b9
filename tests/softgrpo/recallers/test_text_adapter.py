"""The adapter of `Text`: its examples and its loss by hand, and that it learns what the texts alone do not say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from softgrpo.errors import RecallerError
from softgrpo.recallers import text_adapter
from softgrpo.recallers.by_text import Adapter, TextRecaller
from softgrpo.recallers.text_adapter import Examples, batch_loss, fit_adapter
from tests.softgrpo.recallers.cases import corpus_of, windows_of

EMBEDDINGS = np.eye(6, dtype=np.float32)
EMBEDDINGS[3] = 0.0
"""Item 3 has no text."""


class Silent:
    """A reporter that keeps the curves."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.points.append((step, dict(values)))

    def info(self, message: str) -> None: ...


def test_examples_are_next_items_of_the_training_part() -> None:
    corpus = corpus_of([[0, 3, 1, 2, 4, 5], [5, 0], [2, 1, 3]], 6)
    windows = windows_of([(0, 4, 5), (0, 5, 6), (1, 1, 2), (2, 2, 3)], [4, 1, 3])
    found = Examples.of(TextRecaller(EMBEDDINGS, 2, 1.0), corpus, windows)
    # user 0 trains on 0, 3, 1 and 2, of which 3 has no text; user 1 on 5 alone; user 2 on 2 and 1
    assert found.user.tolist() == [0, 0, 2] and found.target.tolist() == [1, 2, 1]
    assert found.latest.tolist() == [[0, -1], [1, 0], [2, -1]]
    users, items = found.pairs()
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (2, 1), (2, 2)]


def test_without_two_items_there_is_no_example() -> None:
    found = Examples.of(
        TextRecaller(EMBEDDINGS, 3, 1.0), corpus_of([[0, 1], [3, 1]], 6), windows_of([(0, 1, 2)], [1, 2])
    )
    assert len(found) == 0 and found.latest.shape == (0, 3) and [len(each) for each in found.pairs()] == [0, 0]


def test_the_loss_is_the_cross_entropy_against_other_items_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_adapter, "TEMPERATURE", 0.5)
    monkeypatch.setattr(text_adapter, "CORRECTION", 1.0)
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    targets, counts = torch.tensor([7, 8, 7]), torch.tensor([2.0, 1.0, 2.0]).log()
    by = 2.0  # a cosine of 1 divided by the temperature
    # item 7 is in the batch twice, and no negative of itself: 7 against 8, 8 against 7 twice, 7 against 8
    one = -math.log(math.exp(by) / 2 / (math.exp(by) / 2 + math.exp(0) / 1))
    other = -math.log(math.exp(by) / (math.exp(by) + 2 * math.exp(0) / 2))
    expected = (2 * one + other) / 3
    assert batch_loss(queries, items, targets, counts).item() == pytest.approx(expected, rel=1e-4)


def cyclic() -> tuple[TextRecaller, Examples]:
    """Six items whose texts have nothing in common; behind item i always comes item i + 1."""
    model = TextRecaller(np.eye(6, dtype=np.float32), 1, 1.0)
    corpus = corpus_of([[(user + step) % 6 for step in range(5)] for user in range(6)], 6)
    return model, Examples.of(model, corpus, windows_of([(0, 4, 5)], [5] * 6))


def share_of_hits(adapter: Adapter, folder: Path) -> float:
    """Returns how often the best item behind each item is the next one."""
    model, _ = cyclic()
    scores = model.adapted(adapter, folder / "items").score(np.arange(6), [np.array([i], np.int32) for i in range(6)])
    return float((scores.argmax(1) == (torch.arange(6) + 1) % 6).double().mean())


def test_an_adapter_learns_which_item_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_adapter, "LEARNING_RATE", 0.1)
    monkeypatch.setattr(text_adapter, "PATIENCE", 20)
    model, examples = cyclic()
    still = Adapter(np.zeros((6, 6), np.float32), np.zeros((6, 6), np.float32))
    assert share_of_hits(still, tmp_path) == 0.0
    reporter = Silent()
    asked: list[Adapter] = []

    def value(adapter: Adapter) -> float:
        asked.append(adapter)
        return share_of_hits(adapter, tmp_path)

    adapter, best = fit_adapter(model, examples, value, epochs=60, at_least=0.0, seed=1, reporter=reporter)
    assert best == 1.0 and adapter is not None and share_of_hits(adapter, tmp_path) == 1.0
    first = next(place for place, (_, values) in enumerate(reporter.points) if values["recall_valid_ndcg"] == 1.0)
    assert adapter is asked[first] and len(asked) == first + 1 + 20  # what is no better is not taken
    again, _ = fit_adapter(model, examples, value, epochs=first + 1, at_least=0.0, seed=1, reporter=Silent())
    assert again is not None and np.array_equal(again.query, adapter.query) and np.array_equal(again.item, adapter.item)


def test_no_adapter_is_kept_that_is_not_better() -> None:
    model, examples = cyclic()
    found = fit_adapter(model, examples, lambda _: 0.5, epochs=9, at_least=0.5, seed=1, reporter=Silent())
    assert found == (None, 0.5)


def test_an_adapter_can_be_stored(tmp_path: Path) -> None:
    adapter = Adapter(np.eye(2, dtype=np.float32), np.full((2, 2), 0.5, np.float32))
    adapter.save(tmp_path / "model")
    again = Adapter.load(tmp_path / "model")
    assert np.array_equal(again.query, adapter.query) and np.array_equal(again.item, adapter.item)


def test_maps_turn_queries_and_items(tmp_path: Path) -> None:
    embeddings = np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32)
    swap = np.array([[-1, 1], [1, -1]], dtype=np.float32)  # v + v @ swap is v with its numbers swapped
    history = [np.array([0], np.int32)]
    plain = TextRecaller(embeddings, 1, 1.0)
    queries_alone = plain.adapted(Adapter(swap, np.zeros_like(swap)), tmp_path / "1")
    assert queries_alone.score(np.zeros(1), history).tolist() == [[0.0, 1.0, -math.inf]]
    both = plain.adapted(Adapter(swap, swap), tmp_path / "2")
    assert both.score(np.zeros(1), history).tolist() == plain.score(np.zeros(1), history).tolist()


def test_a_loss_that_is_no_number_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_adapter, "TEMPERATURE", 0.0)
    model, examples = cyclic()
    with pytest.raises(RecallerError, match=r"text\.adapter off.*\[RECALLER-017\]"):
        fit_adapter(model, examples, lambda _: 0.0, epochs=1, at_least=0.0, seed=1, reporter=Silent())
