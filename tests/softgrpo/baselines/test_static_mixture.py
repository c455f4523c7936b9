from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from softgrpo.baselines.static_mixture import DIRICHLET_POINTS, StaticMixture, best_static_mixture, weight_grid
from softgrpo.config import FusionConfig
from softgrpo.errors import DataError
from softgrpo.evaluation.rows import oracle_recaller, oracle_weights
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.searched import SearchedLists

FUSION = FusionConfig(method="score", normalisation="rank_reciprocal", k=1)


def judged(lists: list[list[list[int]]], targets: list[list[int]]) -> JudgedLists:
    items = torch.tensor(lists)
    scores = -torch.arange(items.shape[-1]).expand(items.shape).float()
    return JudgedLists.build(items, scores, torch.tensor(targets), FUSION)


# Window kinds for target 1 at k = 1: "a" only recaller A has it first, "b" only B, "m" both have it second.
A, B, M = [[1, 2], [3, 4]], [[3, 4], [1, 2]], [[2, 1], [3, 1]]


@pytest.mark.parametrize(("recallers", "steps"), [(2, 10), (3, 10), (4, 10), (3, 2)])
def test_grid_holds_every_multiple_once(recallers: int, steps: int) -> None:
    grid = weight_grid(recallers, steps, 0)
    multiples = (grid * steps - (grid * steps).round()).abs().amax(1) < 1e-9
    assert int(multiples.sum()) == math.comb(steps + recallers - 1, recallers - 1)
    assert len(grid) == int(multiples.sum()) + int(steps % recallers != 0)  # the uniform point, where the grid lacks it
    assert torch.allclose(grid.sum(1), torch.ones(len(grid), dtype=torch.float64))
    assert torch.equal(grid[:recallers], torch.eye(recallers, dtype=torch.float64))
    assert grid[recallers].tolist() == pytest.approx([1 / recallers] * recallers)
    assert len(grid.unique(dim=0)) == len(grid)


def test_large_pools_are_sampled_with_a_seed() -> None:
    grid = weight_grid(6, 10, 3)
    assert grid.shape == (DIRICHLET_POINTS + 7, 6)
    assert torch.equal(grid, weight_grid(6, 10, 3))
    assert not torch.equal(grid, weight_grid(6, 10, 4))


def searched(policy: JudgedLists, valid: JudgedLists, *rest: Any) -> StaticMixture:
    """Returns what `best_static_mixture` finds on windows that are all in memory."""
    return best_static_mixture(SearchedLists.of(policy), SearchedLists.of(valid), *rest)


def test_a_mixture_wins_where_it_should() -> None:
    windows = judged([M, M, A, B], [[1]] * 4)
    found = searched(windows, windows, ("A", "B"), 10, 0)
    # Weight w on A. "m": item 1 gets w/2 + (1-w)/2 = 1/2, item 2 gets w, item 3 gets 1-w: item 1 is never first (at w = 1/2 all
    # three tie and rank 0 goes first). "a" is a hit for w >= 1/2 and "b" for w <= 1/2 (a tie of 1 and 3 goes to the lower id).
    # So A alone and B alone hit one window of four, and w = 1/2 hits two.
    assert [candidate.valid_ndcg for candidate in found.candidates] == [1 / 4, 1 / 4, 2 / 4, 2 / 4]
    assert found.best.name == "uniform"
    assert found.best_single.name == "A"


def test_validation_decides_between_candidates() -> None:
    policy, valid = judged([A, A, A, B], [[1]] * 4), judged([B, B, B, [[3, 4], [5, 1]]], [[1]] * 4)
    found = searched(policy, valid, ("A", "B"), 10, 0)
    assert found.best_single.name == "B"
    assert found.best.name == "B"
    assert (found.best.policy_ndcg, found.best.valid_ndcg) == (1 / 4, 3 / 4)


def test_a_single_recaller_that_ties_is_preferred() -> None:
    windows = judged([A, A], [[1], [1]])
    assert searched(windows, windows, ("A", "B"), 10, 0).best.name == "A"


def test_no_windows_is_an_error() -> None:
    windows = judged([A], [[1]])
    with pytest.raises(DataError, match="no validation window"):
        searched(windows, windows.select(torch.tensor([], dtype=torch.int64)), ("A", "B"), 10, 0)


def test_oracles() -> None:
    windows = judged([A, B, M], [[1], [1], [4]])
    assert oracle_recaller(windows).tolist() == [[1, 0], [0, 1], [1, 0]]
    grid = weight_grid(2, 10, 0)
    assert torch.equal(windows.ndcg(oracle_weights(windows, grid)[:, None])[:, 0], windows.ndcg(grid).amax(1))


def with_bounds(windows: JudgedLists, **bounds: dict[str, float]) -> JudgedLists:
    fusion = FUSION.model_copy(update=bounds).for_pool(("A", "B"))
    return JudgedLists(windows.aligned, windows.targets, fusion)


def test_bounds_hold_for_every_mixture_and_single_recallers_do_not_compete() -> None:
    windows = judged([A, A, A, B], [[1]] * 4)
    free = searched(windows, windows, ("A", "B"), 10, 0, ["cem", "bayes"])
    assert (free.best.name, free.best.weights, free.best.valid_ndcg) == ("uniform", (0.5, 0.5), 1.0)
    held = with_bounds(windows, max_share={"A": 0.4})
    found = searched(held, held, ("A", "B"), 10, 0, ["cem", "bayes"])
    # "a" is a hit for w >= 1/2 only, so w <= 0.4 on A hits the one window of B
    assert [candidate.name for candidate in found.candidates] == ["A", "B", "uniform", "grid", "cem", "bayes"]
    assert found.candidates[:2] == free.candidates[:2]  # as they are without bounds
    assert all(candidate.weights[0] <= 0.4 + 1e-6 for candidate in found.candidates[2:])
    assert (found.best.name, found.best.weights, found.best.valid_ndcg) == ("uniform", pytest.approx((0.4, 0.6)), 1 / 4)
    assert found.best_single == free.best_single


def test_the_oracle_keeps_the_bounds_too() -> None:
    windows = with_bounds(judged([A, B], [[1], [1]]), min_share={"B": 0.6})
    assert windows.ndcg(weight_grid(2, 10, 0)).amax(1).tolist() == [0, 1]
