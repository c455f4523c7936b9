"""Features of windows against plain Python, and planted leaks in the track record."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from softgrpo.common.records import CandidateLists, Part, Windows
from softgrpo.errors import LeakageError
from softgrpo.policy.features import Features, load_features, own_ndcg, own_ranks, save_features
from softgrpo.policy.track_record import track_record
from softgrpo.ranking import metrics
from tests.softgrpo.data.cases import windows_of
from tests.support.whole import make_features

INF, NAN = math.inf, math.nan
NAMES = ("A", "B", "C")


def lists_of(items: list[list[list[int]]], scores: list[list[list[float]]], depth: int) -> CandidateLists:
    """Returns padded lists (W, M, D)."""
    shape = (len(items), len(items[0]), depth)
    padded, values = np.full(shape, -1, dtype=np.int32), np.full(shape, np.nan, dtype=np.float32)
    for window, row in enumerate(items):
        for recaller, ids in enumerate(row):
            padded[window, recaller, : len(ids)] = ids
            values[window, recaller, : len(ids)] = scores[window][recaller]
    return CandidateLists(NAMES[: shape[1]], padded, values)


def test_own_ranks_by_hand() -> None:
    items = np.array([[[4, 7, 9], [9, -1, -1]], [[1, 2, 3], [-1, -1, -1]]], dtype=np.int32)
    targets = np.array([[9, 4], [3, -1]], dtype=np.int32)  # -1 behind the last target is not the lists' -1
    assert own_ranks(items, targets).tolist() == [[[3, 1], [1, INF]], [[3, INF], [INF, INF]]]


def test_own_ndcg_by_hand() -> None:
    """Ranks 1 and 3 of two targets; k = 2 sees one of them; a single target at rank 2."""
    two = (1 / math.log2(2) + 1 / math.log2(4)) / (1 / math.log2(2) + 1 / math.log2(3))
    ranks = np.array([[[3, 1], [INF, INF]], [[2, INF], [INF, INF]]], dtype=np.float32)
    count = np.array([2, 1])
    assert own_ndcg(ranks, count, 3) == pytest.approx(np.array([[two, 0], [1 / math.log2(3), 0]]))
    assert own_ndcg(ranks, count, 2)[0, 0] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert own_ndcg(ranks, count, 1).tolist() == [[1, 0], [0, 0]]


@settings(deadline=None)
@given(st.integers(1, 12), st.data())
def test_own_ndcg_equals_the_metric(k: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    ranks = data.draw(st.lists(st.integers(1, 20), min_size=count, max_size=count, unique=True))
    beyond = np.array([[[float(rank) if rank <= 15 else INF for rank in ranks]]], dtype=np.float32)
    expected = metrics.ndcg(torch.tensor([rank if rank <= 15 else 10**9 for rank in ranks]), torch.tensor(count), k)
    assert own_ndcg(beyond, np.array([count]), k).item() == pytest.approx(expected.item(), abs=1e-6)


def user_windows(counts: list[int]) -> Windows:
    """Returns consecutive one-target windows, `counts[u]` of user u."""
    rows = [(user, Part.POLICY, 1 + at, 2 + at) for user, count in enumerate(counts) for at in range(count)]
    return windows_of(rows, [1] * len(counts))


def test_track_record_by_hand() -> None:
    """Means over earlier windows of the same user: NDCG 0.5, 1, 0; ranks 2, none, 4 -> 1 / mean of 1/2, 0, 1/4."""
    ndcg = np.array([[0.5], [1], [0], [0.3], [0.8], [0.2]], dtype=np.float32)
    rank = np.array([[2], [INF], [4], [1], [INF], [1]], dtype=np.float32)
    mean, harmonic, count = track_record(user_windows([4, 2]), ndcg, rank)
    assert count.tolist() == [0, 1, 2, 3, 0, 1]
    assert mean[:, 0].tolist() == pytest.approx([NAN, 0.5, 0.75, 0.5, NAN, 0.8], nan_ok=True)
    expected = [NAN, 2, 1 / ((1 / 2 + 0) / 2), 1 / ((1 / 2 + 0 + 1 / 4) / 3), NAN, INF]
    assert harmonic[:, 0].tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    "rows",
    [
        [(0, Part.POLICY, 5, 8), (0, Part.POLICY, 2, 5)],  # later before earlier
        [(0, Part.POLICY, 2, 5), (0, Part.TEST, 4, 6)],  # the earlier outcome reaches into the later window
        [(0, Part.POLICY, 2, 5), (0, Part.POLICY, 2, 5)],
        [(1, Part.POLICY, 2, 5), (0, Part.POLICY, 2, 5)],
        [(0, Part.POLICY, 2, 5), (1, Part.POLICY, 2, 5), (0, Part.TEST, 7, 9)],  # a user in two places
    ],
)
def test_planted_leaks_are_caught(rows: list[tuple[int, Part, int, int]]) -> None:
    values = np.ones((len(rows), 2), dtype=np.float32)
    with pytest.raises(LeakageError, match=r"\[LEAKAGE-003\]"):
        track_record(windows_of(rows, [1, 1]), values, values)


def test_gaps_between_windows_are_legal() -> None:
    values = np.ones((2, 1), dtype=np.float32)
    rows = [(0, Part.VALID, 2, 5), (0, Part.TEST, 9, 11)]
    assert track_record(windows_of(rows, [1]), values, values)[2].tolist() == [0, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), st.data())
def test_the_record_knows_nothing_of_its_own_and_later_windows(counts: list[int], data: st.DataObject) -> None:
    windows = user_windows(counts)
    shape = (len(windows), 2)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rank = np.where(rng.random(shape) < 0.4, INF, rng.integers(1, 100, shape)).astype(np.float32)
    ndcg = np.where(np.isinf(rank), 0, rng.random(shape)).astype(np.float32)
    before = track_record(windows, ndcg, rank)
    changed = data.draw(st.integers(0, len(windows) - 1))
    ndcg[changed:], rank[changed:] = 0.123, 45
    for old, new in zip(before, track_record(windows, ndcg, rank), strict=True):
        np.testing.assert_array_equal(old[: changed + 1], new[: changed + 1])


def quantile(value: float, sample: list[float]) -> float:
    """Share of the sample below a value, equal ones counted by half."""
    return sum((other < value) + 0.5 * (other == value) for other in sample) / len(sample)


@st.composite
def pools(draw: st.DrawFn) -> tuple[CandidateLists, Windows, NDArray[np.int32]]:
    """Short, full and empty lists with tied scores; the policy part always has a full list of each recaller."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    windows, recallers = user_windows(counts), draw(st.integers(1, 3))
    items, scores = [], []
    for window in range(len(windows)):
        size = st.integers(0 if window else 5, 5)
        lengths = [draw(size) for _ in range(recallers)]
        items.append([draw(st.permutations(range(8)))[:length] for length in lengths])
        scores.append([sorted((draw(st.integers(-3, 3)) / 4 for _ in range(n)), reverse=True) for n in lengths])
    targets = [draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)) for _ in range(len(windows))]
    padded = np.array([row + [-1] * (3 - len(row)) for row in targets], dtype=np.int32)
    return lists_of(items, scores, 5), windows, padded


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(1, 5))
def test_features_against_plain_python(pool: tuple[CandidateLists, Windows, NDArray[np.int32]], k: int) -> None:
    lists, windows, targets = pool
    features = make_features(lists, windows, targets, k)
    count, recallers = lists.items.shape[:2]
    pairs = [(w, m) for w in range(count) for m in range(recallers)]
    ids = {(w, m): [int(item) for item in lists.items[w, m] if item >= 0] for w, m in pairs}
    values = {(w, m): [float(score) for score in lists.scores[w, m] if not math.isnan(score)] for w, m in pairs}
    lead = {}
    for pair, row in values.items():
        spread = row[0] - row[-1] if row else 0.0
        lead[pair] = (row[0] - row[min(k, len(row)) - 1]) / spread if spread else 0.0
    for w, m in pairs:
        wanted = {int(item) for item in targets[w] if item >= 0}
        ranks = [rank for rank, item in enumerate(ids[w, m], start=1) if item in wanted]
        assert features.best_rank[w, m] == (ranks[0] if ranks else INF)
        gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k)
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
        assert features.ndcg[w, m] == pytest.approx(gain / ideal, abs=1e-6)
        others = [other for other in range(recallers) if other != m]
        top = ids[w, m][:k]
        shares = [len(set(top) & set(ids[w, other][:k])) / len(top) for other in others] if top else []
        assert features.overlap[w, m] == pytest.approx(sum(shares) / len(shares) if shares else 0, abs=1e-6)
        if not ids[w, m]:
            assert math.isnan(features.strength[w, m])
            assert math.isnan(features.peak[w, m])
            continue
        filled = [v for v in range(count) if ids[v, m]]
        assert features.strength[w, m] == pytest.approx(
            quantile(values[w, m][0], [values[v, m][0] for v in filled]), abs=1e-6
        )
        assert features.peak[w, m] == pytest.approx(quantile(lead[w, m], [lead[v, m] for v in filled]), abs=1e-6)
        earlier = [v for v in range(w) if windows.user[v] == windows.user[w]]
        assert features.track_count[w] == len(earlier)
        if earlier:
            mean = sum(float(features.ndcg[v, m]) for v in earlier) / len(earlier)
            inverse = sum(1 / float(features.best_rank[v, m]) for v in earlier) / len(earlier)
            assert features.track_ndcg[w, m] == pytest.approx(mean, abs=1e-6)
            assert features.track_rank[w, m] == pytest.approx(1 / inverse if inverse else INF, rel=1e-5)


def test_quantiles_are_those_of_policy_windows() -> None:
    """Best scores 1, 2, 3 in policy windows, and 2 and 9 behind them; the later ones are measured and do not count."""
    rows = [
        (0, Part.POLICY, 1, 2),
        (0, Part.POLICY, 2, 3),
        (0, Part.POLICY, 3, 4),
        (0, Part.VALID, 4, 5),
        (0, Part.TEST, 5, 6),
    ]
    lists = lists_of([[[0]]] * 5, [[[score]] for score in (1.0, 2.0, 3.0, 2.0, 9.0)], 1)
    features = make_features(lists, windows_of(rows, [1]), np.zeros((5, 1), dtype=np.int32), 1)
    assert features.strength[:, 0].tolist() == pytest.approx([0.5 / 3, 1.5 / 3, 2.5 / 3, 1.5 / 3, 3 / 3])


def test_a_track_record_of_no_hit_stays_exactly_none() -> None:
    """Sums over other users leave no rounding error in the record of a user whom no recaller has served."""
    count = 2000
    rng = np.random.default_rng(0)
    ndcg, rank = rng.random((count, 1)).astype(np.float32), rng.integers(1, 100, (count, 1)).astype(np.float32)
    ndcg[-5:], rank[-5:] = 0, INF
    mean, harmonic, _ = track_record(user_windows([count - 5, 5]), ndcg, rank)
    assert mean[-4:, 0].tolist() == [0, 0, 0, 0]
    assert harmonic[-4:, 0].tolist() == [INF, INF, INF, INF]


def test_round_trip(tmp_path: Path) -> None:
    lists = lists_of([[[0, 1], [1]], [[2], []]], [[[2.0, 1.0], [1.0]], [[3.0], []]], 3)
    windows = windows_of([(0, Part.POLICY, 1, 2), (0, Part.TEST, 2, 3)], [1])
    features = make_features(lists, windows, np.array([[1], [2]], dtype=np.int32), 2)
    save_features(tmp_path / "features.safetensors", features)
    again = load_features(tmp_path / "features.safetensors")
    for name in (field.name for field in fields(Features)):
        np.testing.assert_array_equal(getattr(again, name), getattr(features, name))
        assert getattr(again, name).dtype == np.float32
