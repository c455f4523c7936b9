"""Gates on problems whose answer is known, and proofs that no test answer reaches them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from softgrpo.baselines.boosting import SHARPNESS, fit_best, sharpened
from softgrpo.baselines.gates import GATES, fit_gates
from softgrpo.baselines.inputs import standardised
from softgrpo.baselines.neighbours import neighbours_ndcg
from softgrpo.baselines.networks import Network, fit_network, read
from softgrpo.baselines.stacking import linear_weights, normal_equations, solve
from softgrpo.baselines.thirds import fit_thirds, third_of
from softgrpo.common.records import Part
from softgrpo.errors import DataError
from softgrpo.pipeline.run import LogReporter
from softgrpo.policy.number_scale import NumberScale
from softgrpo.stages.contract import StageContext
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.teacher import gate_data
from softgrpo.stages.test import run as evaluate
from tests.softgrpo.baselines.cases import FUSION, fitted, small_config, small_prepared, switch, switch_data


@pytest.mark.parametrize("name", GATES)
def test_a_gate_finds_the_number_that_matters(name: str) -> None:
    """No static mixture hits more than the windows of one recaller, about half; a gate that reads the number hits all."""
    data, asked, test = switch_data()
    gate = GATES[name].fit(data)
    weights = gate.weights(asked)
    assert weights.shape == (80, 2)
    assert torch.allclose(weights.sum(1), torch.ones(80, dtype=torch.float64))
    assert gate.valid_ndcg >= 0.98
    assert test.ndcg(weights[:, None]).mean() >= 0.97
    assert gate.choice


@pytest.mark.parametrize("name", GATES)
def test_equal_seeds_give_equal_weights(name: str) -> None:
    data, asked, _ = switch_data(120, 30, 30)
    torch.manual_seed(3)
    first = GATES[name].fit(data)
    state = torch.random.get_rng_state()
    second = GATES[name].fit(data)
    assert torch.equal(first.weights(asked), second.weights(asked))
    assert torch.equal(state, torch.random.get_rng_state()), "the random numbers of others are left alone"


@pytest.fixture(scope="module")
def worlds() -> tuple[Prepared, Prepared]:
    """The same corpus twice, with other test answers."""
    one, other = (small_prepared(small_config(), seed) for seed in (7, 8))
    return one, other


@pytest.mark.parametrize("name", GATES)
def test_test_answers_change_no_weight(name: str, worlds: tuple[Prepared, Prepared]) -> None:
    one, other = worlds
    rows = one.windows.of(Part.TEST)
    assert not np.array_equal(one.features.ndcg[rows], other.features.ndcg[rows]), "the answers do differ"
    weights = [
        fitted(prepared, name).weights(prepared.numbers.values[rows], prepared.windows.start[rows])
        for prepared in (one, other)
    ]
    assert np.array_equal(*weights)


def test_test_answers_change_no_static_mixture(worlds: tuple[Prepared, Prepared]) -> None:
    one, other = (each.static for each in worlds)
    assert one == other
    assert {each.name for each in one.candidates} == {"Left", "Right", "uniform", "grid", "cem", "bayes"}


def test_gates_see_the_windows_that_soft_grpo_sees() -> None:
    config = small_config().model_copy(
        update={"train": small_config().train.model_copy(update={"max_train_windows": 30})}
    )
    prepared = small_prepared(config)
    data, scale = gate_data(prepared, prepared.rewarded_rows())
    assert len(data.train) == len(data.numbers[0]) == len(data.train_ndcg) == 30
    assert len(data.valid) == len(data.numbers[1]) == 40
    assert np.allclose(scale.mean, prepared.numbers.values[prepared.rewarded_rows()].mean(0))


def test_a_baseline_that_is_not_named_is_not_fitted() -> None:
    data, _, _ = switch_data(120, 30, 30)
    scale = NumberScale.unknown(("side", "noise"))
    assert list(fit_gates(["cem", "boosting", "stacking"], data, scale)) == ["stacking", "boosting"]
    assert fit_gates(["cem"], data, scale) == {}


@pytest.mark.parametrize(("place", "name"), list(enumerate(["policy", "validation"])))
def test_no_windows_is_an_error(place: int, name: str) -> None:
    data, _, _ = switch_data(20, 20, 20)
    numbers = [*data.numbers]
    numbers[place] = numbers[place][:0]
    with pytest.raises(DataError, match=f"no {name} window"):
        fit_gates(["stacking"], replace(data, numbers=tuple(numbers)), NumberScale.unknown(("side", "noise")))


def test_a_stage_without_test_windows_ends_before_it_asks_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = small_prepared(small_config(), test=False)
    monkeypatch.setattr(Prepared, "of", lambda config, inputs: prepared)
    context = StageContext(prepared.config, "", {}, tmp_path, tmp_path, LogReporter("test"))  # no folder of a model
    with pytest.raises(DataError, match="no test window"):
        evaluate(context)


# ---------------------------------------------------------------- numbers


def test_numbers_are_standardised_by_the_training_windows() -> None:
    numbers = np.array([[1.0, 5.0], [3.0, 5.0], [9.0, 6.0]])
    train, valid = standardised(numbers, np.array([0, 1]), np.array([2]))
    assert train.tolist() == [[-1, 0], [1, 0]]
    assert valid.tolist() == [[7, 0]]  # (9 - 2) / 1; the second does not vary in training


# ---------------------------------------------------------------- stacking


def test_normal_equations_are_those_of_one_row_per_item() -> None:
    judged, numbers, _ = switch(5, 3)
    seen = torch.nn.functional.pad(numbers.double(), (0, 1), value=1.0)
    products, hits = normal_equations(judged.aligned, judged.positions, seen)
    rows, answers = [], []
    for window in range(5):
        for place, item in enumerate(judged.aligned.items[window].tolist()):
            values = judged.aligned.values[window, :, place].double()
            rows.append(torch.outer(values, seen[window]).ravel())
            answers.append(float(item == 3))
    table, wanted = torch.stack(rows), torch.tensor(answers, dtype=torch.float64)
    assert torch.allclose(products, table.T @ table)
    assert torch.allclose(hits, table.T @ wanted)
    coefficients = solve(products, hits, torch.tensor([False, False, True]), 0.1)
    penalty = torch.where(torch.tensor([False, False, True]), 1e-9, 0.1).repeat(2) * products.diagonal().mean()
    gradient = products @ coefficients.ravel() - hits + penalty * coefficients.ravel()
    assert torch.allclose(gradient, torch.zeros(6, dtype=torch.float64), atol=1e-9)


def test_linear_weights_by_hand() -> None:
    coefficients = torch.tensor([[1.0, 0.0], [-2.0, 1.0]], dtype=torch.float64)
    numbers = torch.tensor([[1.0, 5.0], [1.0, 0.0], [-1.0, -3.0]], dtype=torch.float64)
    static = torch.tensor([0.9, 0.1], dtype=torch.float64)
    # (1, 3) -> 1/4, 3/4; (1, -2) -> 1, 0; (-1, -1): nothing is left, the static mixture stands in
    assert linear_weights(coefficients, numbers, static).tolist() == [[0.25, 0.75], [1, 0], [0.9, 0.1]]


# ---------------------------------------------------------------- trees


def test_sharpened_by_hand() -> None:
    prior = torch.tensor([0.5, 0.5]).log()
    weights = sharpened(np.array([[0.2, 0.1], [0.0, 0.1]]), prior)
    assert weights.shape == (2, len(SHARPNESS), 2)
    assert weights[:, SHARPNESS.index(0.0)].tolist() == [[0.5, 0.5]] * 2
    assert weights[0, SHARPNESS.index(1.0)].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert weights[0, SHARPNESS.index(2.0)].tolist() == pytest.approx([4 / 5, 1 / 5])
    assert weights[1, SHARPNESS.index(1.0)].tolist() == pytest.approx([1 / 101, 100 / 101])


def test_one_recaller_that_is_always_best_needs_no_trees() -> None:
    numbers = np.zeros((3, 1))
    ndcg = np.array([[0.0, 0.5], [0.0, 0.0], [0.1, 0.2]], np.float32)
    assert fit_best(numbers, ndcg, 0).predict(numbers[:2]).tolist() == [[0, 1], [0, 1]]
    assert fit_best(numbers, ndcg * 0, 0).predict(numbers[:2]).tolist() == [[0, 0], [0, 0]]


def test_ties_count_for_each_best_recaller_in_equal_shares() -> None:
    """Where no number varies, trees can only give the shares: 1/2 + 1/2 + 1 of 3 windows for the first."""
    numbers = np.zeros((300, 1))
    ndcg = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]] * 100, np.float32)
    found = fit_best(numbers, ndcg, 0).predict(numbers[:1])
    assert found[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.01)


# ---------------------------------------------------------------- neighbours


def test_neighbours_by_hand() -> None:
    """Windows lie at 0, 1, ..., 49. The 25 nearest to -1 are 0 to 24; all 50 are the most that there are."""
    train = np.arange(50.0)[:, None]
    ndcg = np.stack([train[:, 0], train[:, 0] < 10], axis=1)
    found = neighbours_ndcg(train, ndcg, np.array([[-1.0], [60.0]]))
    assert list(found) == [25, 50]
    assert found[25].tolist() == [[12.0, 10 / 25], [37.0, 0.0]]  # means of 0 to 24 and of 25 to 49
    assert found[50].tolist() == [[24.5, 10 / 50]] * 2


# ---------------------------------------------------------------- thirds


def test_thirds_end_at_the_bounds() -> None:
    assert third_of(np.array([1, 4, 5, 9, 10]), np.array([4.0, 9.0])).tolist() == [0, 0, 1, 1, 2]


def test_a_third_keeps_the_static_mixture_where_its_own_is_not_better() -> None:
    """Short histories want the left list, long ones the right: the static mixture is right for the long ones already."""
    data, asked, test = switch_data()
    assert asked.history is not None
    static = torch.tensor([0.0, 1.0], dtype=torch.float64)
    learnt, chosen, history = (
        np.where(each == 2, 1, np.where(np.arange(len(each)) % 2, 5, 9)) for each in (*data.history, asked.history)
    )
    gate = fit_thirds(replace(data, static=static, history=(learnt, chosen)))
    weights = gate.weights(replace(asked, history=history))
    assert gate.choice.startswith("own weights for short histories; thirds end at 1 and")
    assert weights[history > 1].tolist() == [[0, 1]] * int((history > 1).sum())
    assert weights[history == 1][:, 0].min() > 0.5
    assert test.ndcg(weights[:, None]).mean() == 1


def test_a_third_without_validation_windows_keeps_the_static_mixture() -> None:
    data, asked, _ = switch_data()
    train, valid = data.history
    gate = fit_thirds(replace(data, history=(train, valid * 0 + 9)))
    assert (gate.weights(asked)[asked.history == 2] == data.static).all()
    assert "short" not in gate.choice


# ---------------------------------------------------------------- networks


def test_a_network_starts_at_the_prior_and_stays_there_where_nothing_teaches() -> None:
    data, asked, _ = switch_data(20, 20, 20)
    missed = replace(data.train, targets=data.train.targets * 0 + 99)
    prior = torch.tensor([0.7, 0.3]).log()
    for action in ("soft", "dirichlet"):
        gate = fit_network(replace(data, train=missed, prior=prior), action)
        assert gate.choice.startswith("step 0")
        rows = gate.weights(asked)[0].tolist()
        options = [softmax(np.log([0.7, 0.3]) / tau).tolist() for tau in (1.0, 0.5)]
        assert any(rows == pytest.approx(option, abs=1e-6) for option in options)
    hard = fit_network(replace(data, train=missed, prior=prior), "discrete")
    assert hard.weights(asked)[0].tolist() == [1, 0]


def test_readings_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])
    weights, names = read(logits, "soft")
    assert weights[0].tolist() == [pytest.approx([3 / 4, 1 / 4]), pytest.approx([9 / 10, 1 / 10])]
    assert names == ("softmax(z / 1)", "softmax(z / 0.5)")
    assert read(logits, "discrete")[0].tolist() == [[[1, 0]]]


def test_the_network_is_the_prior_at_first() -> None:
    start = torch.tensor([0.1, -0.4, 0.3])
    assert torch.equal(Network(4, start)(torch.randn(5, 4)), start.expand(5, -1))


def test_windows_that_teach_are_those_with_a_listed_target() -> None:
    data, _, _ = switch_data(6, 6, 6)
    targets = data.train.targets.clone()
    targets[[0, 4]] = 99
    assert replace(data, train=replace(data.train, targets=targets)).teaching.tolist() == [1, 2, 3, 5]
    assert data.train.fusion == FUSION
