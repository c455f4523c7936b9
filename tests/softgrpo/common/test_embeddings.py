"""The file of embeddings: what any reader of safetensors finds in it, and that reading it changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from softgrpo.common import embeddings
from softgrpo.common.embeddings import create_embeddings, load_embeddings, mean_of_latest


@pytest.mark.parametrize(("items", "width"), [(1, 1), (5, 3), (7, 384)])
def test_the_file_is_a_safetensors_file(
    items: int, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "_ROWS", 2)  # zeros in several goes
    written = create_embeddings(tmp_path / "e", items, width)
    assert load_file(tmp_path / "e")["embeddings"].tolist() == np.zeros((items, width)).tolist()
    written[0], written[-1] = 0.5, -2.0
    expected = np.zeros((items, width), np.float32)
    expected[0], expected[-1] = 0.5, -2.0
    for stored in (load_file(tmp_path / "e")["embeddings"], load_embeddings(tmp_path / "e")):
        assert stored.dtype == np.float32 and np.array_equal(stored, expected)


def test_changes_of_what_was_read_stay_in_memory(tmp_path: Path) -> None:
    create_embeddings(tmp_path / "e", 2, 2)[:] = 1.0
    before = (tmp_path / "e").read_bytes()
    load_embeddings(tmp_path / "e")[:] = 3.0
    assert (tmp_path / "e").read_bytes() == before


def test_the_mean_of_the_latest_items_adds_up_from_the_latest_on() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 16)).astype(np.float32)
    latest = np.where(rng.random((8, 5)) < 0.8, rng.integers(0, 50, (8, 5)), -1).astype(np.int32)
    weights = (0.7 ** np.arange(5)).astype(np.float32)
    total = np.zeros((8, 16), np.float32)
    for place in range(5):
        total += np.where(latest[:, place] >= 0, weights[place], np.float32(0))[:, None] * embeddings[latest[:, place]]
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    assert np.array_equal(mean_of_latest(embeddings, latest, weights), expected), "bit by bit"


def test_the_mean_of_no_item_is_zero() -> None:
    embeddings = np.ones((3, 2), np.float32)
    found = mean_of_latest(embeddings, np.array([[-1, -1], [2, -1]], np.int32), np.array([1, 0.5], np.float32))
    assert np.allclose(found, [[0, 0], [0.5**0.5, 0.5**0.5]])
