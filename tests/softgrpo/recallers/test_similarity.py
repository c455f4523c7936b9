"""Item-based scores against hand-derived values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from softgrpo.errors import RecallerError
from softgrpo.recallers.similarity import SimilarityRecaller, multi_hot

INF = float("inf")
MATRIX = np.array([[0, 0.5, 0.25, 0], [0.5, 0, 1.0, 0], [0.25, 1.0, 0, 0], [0, 0, 0, 0]], dtype=np.float32)
TRAINED = np.array([True, True, True, False])


def histories(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(one, dtype=np.int32) for one in lists]


def recaller(offset: list[float] | None = None, dense: bool = False) -> SimilarityRecaller:
    values = None if offset is None else np.array(offset, dtype=np.float32)
    return SimilarityRecaller("EASE", MATRIX if dense else sp.csr_matrix(MATRIX), values, TRAINED)


def test_multi_hot_counts_a_repeated_item_once_and_accepts_empty_histories() -> None:
    assert multi_hot(histories([2, 0, 2], [], [3]), 4).toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("dense", [False, True])
def test_scores_are_sums_of_similarities_and_unrelated_items_get_none(dense: bool) -> None:
    scores = recaller(dense=dense).score(np.zeros(3, np.int64), histories([0, 1], [2], []))
    expected = [[0.5, 0.5, 0.25 + 1.0, -INF], [0.25, 1.0, -INF, -INF], [-INF] * 4]
    assert scores.tolist() == expected


def test_an_offset_gives_every_trained_item_a_score() -> None:
    scores = recaller([0.5, -1.0, 0.0, 9.0]).score(np.zeros(1, np.int64), histories([2]))
    assert scores.tolist() == [[0.25 + 0.5, 1.0 - 1.0, 0.0, -INF]]


def test_a_score_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(RecallerError, match=r"\[RECALLER-015\]"):
        recaller([np.nan, 0, 0, 0]).score(np.zeros(1, np.int64), histories([0]))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("offset", [None, [0.5, -1.0, 0.0, 9.0]])
def test_round_trip(tmp_path: Path, offset: list[float] | None, dense: bool) -> None:
    before = recaller(offset, dense)
    before.save(tmp_path / "saved")
    after = SimilarityRecaller.load(tmp_path / "saved")
    users, past = np.zeros(2, np.int64), histories([0, 1], [2])
    assert torch.equal(before.score(users, past), after.score(users, past))
    assert after.name == "EASE"
