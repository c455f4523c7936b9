"""Coverage, novelty, exposure: expected values derived by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from softgrpo.config import FusionConfig
from softgrpo.evaluation.beyond import (
    beyond_accuracy,
    beyond_metrics,
    catalogue_coverage,
    exposure_shares,
    gini,
    mean_popularity,
    novelty,
)
from softgrpo.evaluation.rows import Method, ranker_method
from softgrpo.ranking.judged import JudgedLists


def test_coverage_by_hand() -> None:
    assert catalogue_coverage(np.array([3, 0, 1, 0])) == 0.5


def test_novelty_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4: 1, 2 and 2 bits. Three places of the first and one of the second: (3 + 2) / 4."""
    assert novelty(np.array([3, 1, 0]), np.array([4, 2, 2])) == 1.25
    # an item without interactions counts as if it had one: 1 of 8 is 3 bits
    assert novelty(np.array([0, 0, 0, 2]), np.array([4, 2, 2, 0])) == 3
    assert math.isnan(novelty(np.zeros(2, np.int64), np.array([1, 1])))


def test_gini_by_hand() -> None:
    assert gini(np.array([2, 2, 2, 2])) == 0
    assert gini(np.array([0, 0, 8, 0])) == 0.75  # 1 - 1 / 4 where one of four has all
    # 1 and 3: mean absolute difference of all pairs (0, 2, 2, 0) / 4 = 1, over twice the mean 4
    assert gini(np.array([3, 1])) == 0.25
    assert math.isnan(gini(np.zeros(3, np.int64)))


def test_shares_of_places_by_hand() -> None:
    """Halves, all for the second, and a negative part that counts as 0; the last place cannot be told."""
    parts = np.array([[1.0, 1.0], [0.0, 3.0], [2.0, -1.0], [-1.0, 0.0]])
    assert exposure_shares(parts).tolist() == [0.5, 0.5]
    assert np.isnan(exposure_shares(parts[3:])).all()


@pytest.fixture
def judged() -> JudgedLists:
    """Two users. A lists 1, 2 and 1, 3; B lists 2, 4 and 5, 4."""
    items = torch.tensor([[[1, 2], [2, 4]], [[1, 3], [5, 4]]])
    scores = torch.tensor([2.0, 1.0]).expand(2, 2, 2)
    targets = torch.tensor([[1], [1]])
    return JudgedLists.build(items, scores, targets, FusionConfig(method="score", normalisation="rank_reciprocal", k=2))


def test_rows_by_hand(judged: JudgedLists) -> None:
    """Values are 1 and 1/2 by rank. Half and half, user 0: item 2 has 1/4 + 1/2, item 1 has 1/2; user 1: items 1 and 5, a tie.

    Places of A: 1/3 of item 2, all of item 1, twice: (1/3 + 1 + 1 + 0) / 4 = 7/12.
    """
    half = torch.full((2, 2), 0.5, dtype=torch.float64)
    alone = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(2, 2)
    ranker = ranker_method("ranker", "R", np.array([[4, 0], [4, -1]]), judged)
    methods = [Method("half", "H", "static", half), Method("A", "A", "single", alone), ranker]
    popularity = np.array([1, 8, 4, 2, 1, 0])  # sum 16: 4, 1, 2, 3, 4 and (as if one) 4 bits
    table = beyond_accuracy(judged, methods, ("A", "B"), popularity, 2).set_index("method")
    assert table["coverage"].to_dict() == pytest.approx({"half": 3 / 6, "A": 3 / 6, "ranker": 2 / 6})
    assert table["novelty"].to_dict() == pytest.approx({"half": (2 + 1 + 1 + 4) / 4, "A": 7 / 4, "ranker": 4})
    assert table.loc["half", ["share_A", "share_B"]].tolist() == pytest.approx([7 / 12, 5 / 12])
    assert table.loc["A", ["share_A", "share_B"]].tolist() == [1, 0]
    assert table.loc["ranker", ["share_A", "share_B"]].isna().all()
    # exposure 0 0 0 1 1 2, ranks 4, 5, 6 with factors 1, 3, 5: (1 + 3 + 10) / (6 * 4)
    assert table.loc["half", "gini"] == pytest.approx(14 / 24)


def test_targets_are_not_looked_at(judged: JudgedLists) -> None:
    method = Method("half", "H", "static", torch.full((2, 2), 0.5, dtype=torch.float64))
    popularity = np.arange(6)
    other = dataclasses.replace(judged, targets=judged.targets * 0 + 4)
    one, two = (beyond_accuracy(each, [method], ("A", "B"), popularity, 2) for each in (judged, other))
    assert one.equals(two)


def test_mean_popularity_by_hand() -> None:
    """Two targets with 2 and 5 interactions, and a single one with 7; padding does not count."""
    found = mean_popularity(np.array([[1, 2], [0, -1]]), np.array([7, 2, 5]))
    assert found.tolist() == [3.5, 7]


def test_only_a_few_rows_are_metrics(judged: JudgedLists) -> None:
    half = torch.full((2, 2), 0.5, dtype=torch.float64)
    methods = [Method("half", "H", "static", half), Method("other", "O", "static", half)]
    table = beyond_accuracy(judged, methods, ("A", "B"), np.ones(6, np.int64), 2)
    assert beyond_metrics(table, ("half",), 2) == {
        "coverage@2/half": 0.5,
        "novelty@2/half": pytest.approx(math.log2(6)),
        "gini@2/half": pytest.approx(14 / 24),
    }
