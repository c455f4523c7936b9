"""Bounds on the recallers' shares: the projection, and that every merge, ranking and reward keeps them."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from softgrpo.config import FusionConfig, MergeMethod
from softgrpo.errors import TrainingError
from softgrpo.ranking.bounds import project, within_bounds
from softgrpo.ranking.fusion import align, contributions, merged_lists
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.rewards import LogProbabilityReward, RankingReward

Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]
LISTS = torch.arange(30).view(1, 3, 10)
"""Three recallers without a common item."""
SCORES = -torch.arange(10.0).expand(1, 3, 10)


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.float64], Bounds]:
    """Weights of 2..5 recallers, zeros included, and bounds that some shares keep; tight, equal and missing ones are common."""
    recallers = draw(st.integers(2, 5))
    rows = [draw(st.lists(st.integers(0, 8), min_size=recallers, max_size=recallers)) for _ in range(2)]
    weights = np.array(rows[0], dtype=np.float64) + (sum(rows[0]) == 0)
    inside = np.array(rows[1], dtype=np.float64) + (sum(rows[1]) == 0)
    inside /= inside.sum()  # keeps the bounds, so they are feasible
    slack = st.lists(st.sampled_from([0.0, 0.05, 0.3, 1.0]), min_size=recallers, max_size=recallers)
    return weights, (np.maximum(inside - draw(slack), 0.0), np.minimum(inside + draw(slack), 1.0))


def projected(weights: NDArray[np.float64], bounds: Bounds) -> NDArray[np.float64]:
    result: NDArray[np.float64] = project(torch.from_numpy(weights), *map(torch.from_numpy, bounds)).numpy()
    return result


@given(problems())
def test_the_projection_is_within_the_bounds_and_stays_there(problem: tuple[NDArray[np.float64], Bounds]) -> None:
    weights, (low, high) = problem
    found = projected(weights, (low, high))
    shares = found / found.sum()
    assert (shares >= low - 2e-6).all() and (shares <= high + 2e-6).all()
    assert np.array_equal(projected(found, (low, high)), found)


@given(problems())
def test_the_projection_is_the_nearest_point(problem: tuple[NDArray[np.float64], Bounds]) -> None:
    """By the condition for the minimum over a convex set: no other point within is on the near side."""
    weights, (low, high) = problem
    found = projected(weights, (low, high))
    shares, nearest = weights / weights.sum(), found / found.sum()
    for other in np.random.default_rng(0).dirichlet(np.ones(len(low)), 20):
        inside = projected(other, (low, high))
        assert (shares - nearest) @ (inside / inside.sum() - nearest) <= 1e-5


@pytest.mark.parametrize("seed", range(8))
def test_scipy_finds_the_same(seed: int) -> None:
    generator = np.random.default_rng(seed)
    recallers = 2 + seed % 4
    shares = generator.dirichlet(np.full(recallers, 0.3))
    low = generator.uniform(0, 0.8 / recallers, recallers)
    high = np.maximum(low, generator.uniform(1.1 / recallers, 1.6 / recallers, recallers))
    best = minimize(
        lambda point: ((point - shares) ** 2).sum(),
        np.full(recallers, 1 / recallers),
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda point: point.sum() - 1.0},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert best.success
    assert projected(shares, (low, high)) == pytest.approx(best.x, abs=1e-6)


def test_by_hand() -> None:
    low, high = torch.tensor([[0.0, 0.1, 0.0], [0.6, 1.0, 1.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.5, 0.0, 0.5], [2.0, 2.0, 1.0]], dtype=torch.float64)
    expected = [
        [0.6, 0.2, 0.2],  # 0.4 too much, shared by the two others
        [0.6, 0.25, 0.15],  # 0.3 too much, shared by the two others
        [0.45, 0.1, 0.45],  # 0.1 is missing, taken from the two others
        [2.0, 2.0, 1.0],  # shares 0.4, 0.4, 0.2 are within: left as they are
    ]
    assert project(weights, low, high).tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


def test_bounds_that_leave_one_point_give_it() -> None:
    fixed = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    assert torch.allclose(project(torch.tensor([[1.0, 0.0, 0.0]]).double(), fixed, fixed), fixed)


def test_without_bounds_the_same_tensor_comes_back() -> None:
    weights = torch.rand(4, 2, 3)
    assert within_bounds(weights, FusionConfig()) is weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_and_rows_within_stay(dtype: torch.dtype) -> None:
    weights = torch.tensor([[[0.2, 0.5, 0.3], [0.8, 0.1, 0.1]]], dtype=dtype)
    found = within_bounds(weights, bounded("rrf"))
    assert found.dtype == dtype
    assert torch.equal(found[0, 0], weights[0, 0])
    assert found[0, 1].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-6)


def test_weights_that_are_expanded_over_windows_are_projected_alike() -> None:
    weights = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]], dtype=torch.float64)
    expanded = weights.expand(5, -1, -1)
    assert torch.equal(within_bounds(expanded, bounded("rrf")), within_bounds(expanded.clone(), bounded("rrf")))


def bounded(method: MergeMethod, most: float = 0.5, least: float = 0.0) -> FusionConfig:
    """Returns a merge of LISTS in which the first recaller has at most half of the weight and the last at least `least`."""
    bounds = FusionConfig(method=method, rrf_k=2.0, k=10, max_share={"A": most}, min_share={"C": least})
    return bounds.for_pool(("A", "B", "C"))


@pytest.mark.parametrize("method", get_args(MergeMethod))
def test_every_merge_takes_the_nearest_weights_within(method: MergeMethod) -> None:
    fusion = bounded(method)
    aligned = align(LISTS, SCORES, fusion)
    beyond, inside = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[0.5, 0.25, 0.25]]])
    merged = merged_lists(aligned, beyond, fusion, 10)
    assert torch.equal(merged, merged_lists(aligned, inside, fusion.unbounded, 10))
    assert not torch.equal(merged, merged_lists(aligned, beyond, fusion.unbounded, 10))
    shares = contributions(aligned, merged[:, 0], beyond[:, 0], fusion)
    assert torch.equal(shares, contributions(aligned, merged[:, 0], inside[:, 0], fusion.unbounded))


@pytest.mark.parametrize("method", get_args(MergeMethod))
def test_rewards_and_rankings_keep_the_bounds(method: MergeMethod) -> None:
    fusion = bounded(method)
    judged = JudgedLists.build(LISTS, SCORES, torch.tensor([[10, 1]]), fusion)
    beyond, inside = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[0.5, 0.25, 0.25]]])
    assert torch.equal(judged.ndcg(beyond), judged.unbounded.ndcg(inside))
    assert judged.ndcg(beyond) != judged.unbounded.ndcg(beyond)
    assert judged.metrics(beyond[:, 0], (5,)) == judged.unbounded.metrics(inside[:, 0], (5,))
    assert torch.equal(
        judged.best_metrics(beyond[0], (5,))["ndcg@5"], judged.unbounded.best_metrics(inside[0], (5,))["ndcg@5"]
    )
    rewards = [RankingReward] if method == "quota" else [RankingReward, LogProbabilityReward]
    index = {"index": torch.tensor([0])}
    for kind in rewards:
        free = kind(judged.aligned, judged.targets, fusion.unbounded)
        assert torch.equal(kind(judged.aligned, judged.targets, fusion)(beyond, index), free(inside, index))
        assert kind(judged.aligned, judged.targets, fusion)(beyond, index) != free(beyond, index)


def test_wrong_weights_are_refused_before_they_are_projected() -> None:
    judged = JudgedLists.build(LISTS, SCORES, torch.tensor([[10]]), bounded("rrf"))
    for wrong in ([-0.5, 1.0, 0.5], [0.0, 0.0, 0.0], [math.nan, 1.0, 0.0]):
        with pytest.raises(TrainingError):
            judged.ndcg(torch.tensor([[wrong]]))


@given(st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any), st.sampled_from([0.1, 0.25, 0.3, 0.5]))
def test_the_quota_of_the_first_k_keeps_the_bounds(weights: list[int], least: float) -> None:
    fusion = bounded("quota", most=0.4, least=least)
    merged = merged_lists(align(LISTS, SCORES, fusion), torch.tensor([[weights]]).double(), fusion, 10)[0, 0]
    turns = torch.bincount(merged // 10, minlength=3).tolist()
    assert turns[0] <= math.ceil(0.4 * 10) and turns[2] >= math.floor(least * 10)
