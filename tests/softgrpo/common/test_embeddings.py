"""The file of embeddings: what any reader of safetensors finds in it, and that reading it changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from softgrpo.common import embeddings
from softgrpo.common.embeddings import create_embeddings, load_embeddings


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
