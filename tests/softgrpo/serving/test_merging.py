"""Common lists do not depend on how many windows are read at a time, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

from softgrpo.common.records import CandidateLists
from softgrpo.policy import features
from softgrpo.policy.features import ListScale
from softgrpo.serving import merging
from softgrpo.serving.merging import common_lists


def lists() -> CandidateLists:
    """Returns lists of 50 windows and three recallers, of all lengths from 0 on."""
    rng = np.random.default_rng(0)
    shape = (50, 3, 8)
    behind = np.arange(8) >= rng.integers(0, 9, shape[:2])[..., None]
    items = np.where(behind, -1, rng.permuted(np.tile(np.arange(20), (50, 3, 1)), axis=2)[..., :8])
    scores = np.where(behind, np.nan, -np.sort(-rng.random(shape), axis=2))
    return CandidateLists(("A", "B", "C"), items.astype(np.int32), scores.astype(np.float32))


def test_common_lists_by_plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    given, rows = lists(), np.arange(3, 47)
    whole = common_lists(given, rows)
    monkeypatch.setattr(merging, "BLOCK", 4)
    for one, other in zip(whole, common_lists(given, rows), strict=True):
        np.testing.assert_array_equal(one, other)
    worth = {item: 0.0 for item in range(20)}
    for window in rows:
        for rank, item in enumerate(given.items[window, 1]):
            if item >= 0:
                worth[int(item)] += 1 / (rank + 1)
    best = sorted(worth, key=lambda item: (-worth[item], item))[:8]
    assert whole[0][1].tolist() == best
    first = given.scores[rows, 1, 0]
    assert whole[1][1, 0] == pytest.approx(float(first[~np.isnan(first)].mean()))


def test_the_scale_of_lists_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    given, rows = lists(), np.arange(0, 50, 3)
    whole = ListScale.of(given, rows, 5)
    monkeypatch.setattr(features, "CHUNK", 4)
    found = ListScale.of(given, rows, 5)
    for name in ("strength", "peak"):
        for one, other in zip(getattr(whole, name), getattr(found, name), strict=True):
            np.testing.assert_array_equal(one, other)
