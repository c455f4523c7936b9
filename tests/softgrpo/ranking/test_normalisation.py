from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings

from softgrpo.config import FusionConfig, Normalisation
from softgrpo.errors import CandidateError
from softgrpo.ranking import normalisation
from softgrpo.ranking.fusion import list_values
from tests.support.fusion_cases import pad, windows

# Three lists: four scores, one score, none.
SCORES = [[[4.0, 3.0, 1.0, 0.0], [2.0], []]]
PLATT = torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)


def values(name: Normalisation, scores: list[list[list[float]]] = SCORES) -> list[list[float]]:
    items = [[list(range(len(row))) for row in window] for window in scores]
    ids, padded = pad(items, scores)
    config = FusionConfig(method="score", normalisation=name, rank_exp_tau=2.0)
    return list_values(padded, ids >= 0, config, PLATT)[0].tolist()


Z = math.sqrt(((4 - 2) ** 2 + (3 - 2) ** 2 + (1 - 2) ** 2 + (0 - 2) ** 2) / 4)
E = math.exp(4) + math.exp(3) + math.exp(1) + math.exp(0)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("none", [4, 3, 1, 0], 2),
        ("minmax", [1, 3 / 4, 1 / 4, 0], 1),
        ("zscore", [2 / Z, 1 / Z, -1 / Z, -2 / Z], 0),
        ("softmax", [math.exp(4) / E, math.exp(3) / E, math.exp(1) / E, math.exp(0) / E], 1),
        ("percentile", [4 / 4, 3 / 4, 2 / 4, 1 / 4], 1),
        ("rank_reciprocal", [1, 1 / 2, 1 / 3, 1 / 4], 1),
        ("rank_exp", [1, math.exp(-1 / 2), math.exp(-2 / 2), math.exp(-3 / 2)], 1),
        (
            "platt",
            [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 1 / (1 + math.exp(2))],
            1 / (1 + math.exp(-1)),
        ),
    ],
)
def test_formulas_and_short_lists(name: Normalisation, first: list[float], second: float) -> None:
    long, short, empty = values(name)
    assert long == pytest.approx(first, abs=1e-6)
    assert short == pytest.approx([second, 0, 0, 0], abs=1e-6)
    assert empty == [0, 0, 0, 0]


def test_rrf_takes_its_constant() -> None:
    ids, scores = pad([[[7, 8]]], [[[5.0, 1.0]]])
    result = list_values(scores, ids >= 0, FusionConfig(method="rrf", rrf_k=60), None)
    assert result[0, 0].tolist() == pytest.approx([1 / 61, 1 / 62])


@pytest.mark.parametrize(("name", "constant"), [("minmax", 1), ("zscore", 0), ("softmax", 1 / 3)])
def test_constant_lists(name: Normalisation, constant: float) -> None:
    assert values(name, [[[0.1, 0.1, 0.1]]] * 1)[0] == pytest.approx([constant] * 3)


@pytest.mark.parametrize("name", get_args(Normalisation))
@given(case=windows())
@settings(max_examples=40, deadline=None)
def test_every_normalisation_is_finite_and_keeps_the_order(name: Normalisation, case) -> None:
    ids, scores = pad(*case)
    valid = ids >= 0
    parameters = torch.tensor([[0.7, -1.0]] * ids.shape[1], dtype=torch.float64)
    result = list_values(scores, valid, FusionConfig(method="score", normalisation=name), parameters)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert (result[~valid] == 0).all()
    steps = result[..., 1:] - result[..., :-1]
    assert (steps[valid[..., 1:]] <= 0).all()


def test_platt_without_parameters_is_refused() -> None:
    ids, scores = pad([[[1]]], [[[1.0]]])
    with pytest.raises(CandidateError, match=r"\[CANDIDATE-002\]"):
        list_values(scores, ids >= 0, FusionConfig(method="score", normalisation="platt"), None)


def test_fit_platt_recovers_a_known_curve() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 1, 5, generator=generator, dtype=torch.float64) * 3 + 10
    chance = torch.sigmoid(0.8 * scores - 9.0)
    slope, intercept = normalisation.fit_platt(scores, torch.rand(scores.shape, generator=generator) < chance)[
        0
    ].tolist()
    assert slope == pytest.approx(0.8, rel=0.05)
    assert intercept == pytest.approx(-9.0, rel=0.05)


def test_fit_platt_falls_back_to_the_base_rate() -> None:
    scores = torch.tensor([[[3.0, 2.0, 1.0, torch.nan]] * 4])
    none, false = torch.zeros(4, dtype=torch.bool), torch.tensor([False, False, True, False])
    relevance = torch.stack([none, false, none, ~none])[None]
    scores[0, 2] = torch.nan  # a recaller that never retrieves anything
    slopes, intercepts = normalisation.fit_platt(scores, relevance & ~scores.isnan()).unbind(-1)
    assert slopes.tolist() == [0, 0, 0, 0]  # no hit; only the worst score hits; no item; nothing but hits
    assert intercepts.tolist() == pytest.approx([math.log(1 / 4), math.log(2 / 3), math.log(1 / 1), math.log(4 / 1)])
