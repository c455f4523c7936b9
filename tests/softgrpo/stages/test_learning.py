"""SofT-GRPO learns: on a problem with a known optimum it reaches 95 % of it and beats every static mixture, in both ratio forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.learning_problem import FUSION, TARGETS, WINDOWS, Problem, learn, simplex
from softgrpo.algorithm.soft_grpo import ImportanceRatio
from tests.support.fusion_cases import merge_by_value


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.make()


# ---------------------------------------------------------------- the problem and its optimum


@given(st.integers(1, 12), st.integers(1, 4))
def test_the_grid_holds_every_mixture_once(steps: int, classes: int) -> None:
    grid = simplex(steps, classes)
    counts = (grid * steps).round().int()
    # so many ways to put `steps` units into `classes` boxes; in halves of two classes: (0, 1), (1/2, 1/2), (1, 0)
    assert len(grid) == len({tuple(row) for row in counts.tolist()}) == math.comb(steps + classes - 1, classes - 1)
    assert (counts >= 0).all() and (counts.sum(-1) == steps).all()
    assert torch.allclose(grid, counts / steps)


def test_the_hidden_mixture_merges_the_targets_first(problem: Problem) -> None:
    """Against the plain-Python merge, for the first window of each context."""
    judged = problem.judged
    assert len(problem.mixtures) == 6 and problem.mixtures[0].tolist() == pytest.approx([0.1, 0.4, 0.5])
    for context, mixture in enumerate(problem.mixtures):
        window = context * WINDOWS
        aligned = judged.aligned.select(slice(window, window + 1))
        places = aligned.lists[0, :, :-1]  # of each list's items in the union
        lists = aligned.items[0][places].tolist()
        values = aligned.values[0].gather(1, places).tolist()
        merged = merge_by_value(lists, values, mixture.numpy())
        assert set(merged[:TARGETS]) == set(judged.targets[window].tolist())


def test_the_optimum_is_one_and_neither_one_mixture_nor_one_recaller_comes_near(problem: Problem) -> None:
    hidden = problem.mixtures.repeat_interleave(WINDOWS, 0)
    assert problem.share(hidden) == pytest.approx(1.0)  # the targets come first: NDCG 1
    assert problem.optimum == pytest.approx(1.0)  # and the grid finds it
    assert problem.single < problem.static < 0.9
    # the best static mixture is searched, not assumed: it is at least as good as the mean of the hidden ones, (1/3, 1/3, 1/3)
    assert problem.static >= problem.judged.ndcg(torch.full((1, 3), 1 / 3)).mean().item() - 0.01
    assert FUSION.method == "score"


# ---------------------------------------------------------------- learning


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", ["noise", "concrete"])
def test_it_reaches_the_optimum_and_beats_the_best_static_mixture(problem: Problem, form: ImportanceRatio) -> None:
    learned = learn(problem, seed=0, importance_ratio=form)
    assert learned.start < 0.9
    assert learned.end["softmax(z)"] >= 0.95
    assert learned.end["softmax(z)"] * problem.optimum > problem.static + 0.05
    rewards = [reward for _, reward, _ in learned.curve]
    assert sum(rewards[-4:]) > sum(rewards[:4])  # the samples themselves become better


@pytest.mark.timeout(60)
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_discrete_grpo_finds_the_best_recaller_and_stays_there(problem: Problem, top_p: float) -> None:
    learned = learn(problem, seed=0, sampling="discrete", top_p=top_p)
    best_single = problem.single / problem.optimum
    assert 0.97 * best_single <= learned.end["argmax z"] <= best_single  # it solves the problem that it is given
    assert max(learned.end.values()) < problem.static / problem.optimum + 0.01  # and that one does not reward mixing
