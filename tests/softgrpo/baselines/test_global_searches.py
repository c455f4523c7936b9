"""Searches for global weights on problems whose optimum is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softgrpo.baselines.static_mixture import (
    Score,
    bayesian_optimisation,
    best_static_mixture,
    cross_entropy_method,
    from_cube,
)
from softgrpo.ranking.searched import SearchedLists
from tests.softgrpo.baselines.test_static_mixture import A, B, M, judged

Search = Callable[[Score, int, int], Tensor]
SEARCHES = [cross_entropy_method, bayesian_optimisation]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("best", [[0.7, 0.3], [0.5, 0.2, 0.3], [0.05, 0.9, 0.05]])
def test_the_top_of_a_hill_is_found(search: Search, best: list[float]) -> None:
    top = torch.tensor(best, dtype=torch.float64)
    found = search(lambda points: -(points - top).square().sum(1), len(best), 0)
    assert found.tolist() == pytest.approx(best, abs=0.06)
    assert float(found.sum()) == pytest.approx(1.0)
    assert (found >= 0).all()


@pytest.mark.parametrize("search", SEARCHES)
def test_equal_seeds_give_equal_weights(search: Search) -> None:
    def score(points: Tensor) -> Tensor:
        return -(points - torch.tensor([0.2, 0.5, 0.3])).square().sum(1)

    assert torch.equal(search(score, 3, 5), search(score, 3, 5))
    assert not torch.equal(search(score, 3, 5), search(score, 3, 6))


def test_stick_breaking_by_hand() -> None:
    assert from_cube(np.array([0.25])).tolist() == [0.75, 0.25]
    assert from_cube(np.array([0.0, 0.3])).tolist() == [1.0, 0.0, 0.0]
    assert from_cube(np.array([1.0, 1.0])).tolist() == [0.0, 0.0, 1.0]
    # first: 0.49 ** (1/2) = 0.7 is left, of which 0.4 stays behind the second
    assert from_cube(np.array([0.49, 0.4])).tolist() == pytest.approx([0.3, 0.7 * 0.6, 0.7 * 0.4])


def test_stick_breaking_is_uniform_on_the_simplex() -> None:
    points = np.stack([from_cube(cube) for cube in np.random.default_rng(0).random((4000, 3))])
    assert points.sum(1) == pytest.approx(np.ones(4000))
    assert points.mean(0) == pytest.approx([0.25] * 4, abs=0.01)
    # Dirichlet(1, 1, 1, 1): variance 3 / (16 * 5)
    assert points.var(0) == pytest.approx([3 / 80] * 4, abs=0.004)


def test_windows_that_nobody_hits_count_as_zero() -> None:
    windows = judged([A, [[5, 6], [7, 8]]], [[1], [1]])
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert SearchedLists.of(windows).mean_ndcg(points).tolist() == [0.5, 0.0]
    assert SearchedLists.of(windows).mean_ndcg(points).tolist() == windows.ndcg(points).mean(0).tolist()
    nothing = judged([[[5, 6], [7, 8]]], [[1]])
    assert SearchedLists.of(nothing).mean_ndcg(points).tolist() == [0.0, 0.0]


def test_searches_compete_for_the_best_static_mixture() -> None:
    # Target 1 is first for A, second for B's list; item 3 competes: 1 wins where w + (1 - w)/2 > 1 - w, w > 1/3. In the other
    # kind B is first and A's second: 1 - w + w/2 > w, w < 2/3. Every weight between hits all; each end misses one kind.
    first, second = [[1, 2], [3, 1]], [[3, 1], [1, 2]]
    windows = SearchedLists.of(judged([first, second], [[1]] * 2))
    found = best_static_mixture(windows, windows, ("A", "B"), 2, 0, ("cem", "bayes"))
    assert [each.name for each in found.candidates] == ["A", "B", "uniform", "grid", "cem", "bayes"]
    for each in found.candidates[2:]:
        assert each.policy_ndcg == each.valid_ndcg == 1.0
        assert 1 / 3 <= each.weights[0] <= 2 / 3
    assert found.best.name == "uniform", "the earlier of equal ones"


def test_validation_decides_between_searches() -> None:
    policy, valid = (SearchedLists.of(judged(lists, [[1]] * len(lists))) for lists in ([M, M, A, B], [B, B, B]))
    found = best_static_mixture(policy, valid, ("A", "B"), 10, 0, ("cem", "bayes"))
    assert found.best.name == "B"


def test_bayesian_optimisation_asks_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its matrices are tiny. The score keeps the threads that there are, and afterwards all is as before."""
    import optuna

    monkeypatch.setattr("softgrpo.baselines.static_mixture.BAYES_TRIALS", 2)
    usual, asked, scored = torch.get_num_threads(), list[int](), list[int]()
    ask = optuna.Study.ask

    def counted(study: optuna.Study, *args: Any) -> optuna.Trial:
        asked.append(torch.get_num_threads())
        return ask(study, *args)

    def score(weights: torch.Tensor) -> torch.Tensor:
        scored.append(torch.get_num_threads())
        return weights[:, 0]

    monkeypatch.setattr(optuna.Study, "ask", counted)
    try:
        torch.set_num_threads(2)
        bayesian_optimisation(score, 3, 0)
        assert (asked, scored, torch.get_num_threads()) == ([1, 1], [2, 2], 2)
    finally:
        torch.set_num_threads(usual)
