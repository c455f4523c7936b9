"""Gates that are stored and asked about new windows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from skops.io import dump
from skops.io.exceptions import UntrustedTypesFoundException

from softgrpo.baselines.boosting import BestTrees, FittedTrees
from softgrpo.baselines.gates import fit_gates
from softgrpo.baselines.stored_gates import CARD, NETWORK, TREES, Gate, GateKind
from softgrpo.common.records import Part
from softgrpo.errors import PolicyError
from softgrpo.policy.number_scale import NumberScale
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.teacher import gate_data
from tests.softgrpo.baselines.cases import small_config, small_prepared


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A small corpus whose lists are known."""
    return small_prepared(small_config())


def fitted(prepared: Prepared, kind: GateKind) -> Gate:
    """Returns a gate on the corpus."""
    train = prepared.rewarded_rows()
    scale = NumberScale.of(prepared.numbers.names, prepared.numbers.values[train])
    return Gate.fit(kind, gate_data(prepared, train, prepared.windows.of(Part.TEST)), scale)


@pytest.mark.parametrize("kind", get_args(GateKind))
def test_a_stored_gate_says_what_the_baseline_says_to_the_last_digit(
    prepared: Prepared, kind: GateKind, tmp_path: Path
) -> None:
    test = prepared.windows.of(Part.TEST)
    expected = fit_gates([kind], gate_data(prepared, prepared.rewarded_rows(), test))[kind]
    gate = fitted(prepared, kind)
    assert (gate.kind, gate.valid_ndcg, gate.model.choice) == (kind, expected.valid_ndcg, expected.choice)
    gate.save(tmp_path / "gate")
    loaded = Gate.load(tmp_path / "gate")
    assert (loaded.kind, loaded.scale.names, loaded.valid_ndcg) == (kind, prepared.numbers.names, gate.valid_ndcg)
    for asked in (gate, loaded):
        assert np.array_equal(asked.weights(prepared.numbers.values[test]), expected.weights.numpy())
    assert np.allclose(loaded.weights(prepared.numbers.values[test[:1]]), expected.weights.numpy()[:1], atol=1e-6)


def test_trees_where_one_recaller_is_always_best_are_stored_too(tmp_path: Path) -> None:
    scale = NumberScale(("items",), np.zeros(1), np.ones(1))
    trees = FittedTrees(BestTrees(None, (1,), 2), torch.zeros(2), 3, 0.5, "trees")
    Gate(scale, trees).save(tmp_path / "gate")
    # power 1 of (0, 1), the zero raised to 0.001: (0.001, 1) / 1.001
    assert Gate.load(tmp_path / "gate").weights(np.zeros((1, 1)))[0] == pytest.approx([0.001 / 1.001, 1 / 1.001])


def test_the_best_gate_is_the_one_that_validation_prefers(prepared: Prepared) -> None:
    train = prepared.rewarded_rows()
    scale = NumberScale.of(prepared.numbers.names, prepared.numbers.values[train])
    best = Gate.best(gate_data(prepared, train, prepared.windows.of(Part.VALID)), scale)
    assert best.valid_ndcg == max(fitted(prepared, kind).valid_ndcg for kind in get_args(GateKind))


def test_other_numbers_and_folders_without_a_gate_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    gate = fitted(prepared, "network")
    with pytest.raises(PolicyError, match=rf"shape \(3, 1\).*reads {len(prepared.numbers.names)} numbers"):
        gate.weights(np.zeros((3, 1)))
    with pytest.raises(PolicyError, match=rf"holds no {CARD}"):
        Gate.load(tmp_path)


def test_a_stored_gate_runs_no_code_of_its_own(prepared: Prepared, tmp_path: Path) -> None:
    gate = fitted(prepared, "boosting")
    gate.save(tmp_path / "gate")
    assert {path.name for path in (tmp_path / "gate").iterdir()} == {CARD, TREES}
    dump([argparse.Namespace(a=1)], tmp_path / "gate" / TREES)
    with pytest.raises(UntrustedTypesFoundException, match="Namespace"):
        Gate.load(tmp_path / "gate")
    fitted(prepared, "network").save(tmp_path / "network")
    assert {path.name for path in (tmp_path / "network").iterdir()} == {CARD, NETWORK}
