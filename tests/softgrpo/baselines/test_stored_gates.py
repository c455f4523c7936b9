"""Gates that are stored and asked about new windows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skops.io import dump, dumps, loads

from softgrpo.baselines import boosting
from softgrpo.baselines.boosting import BestTrees, FittedTrees
from softgrpo.baselines.files import FILES, reproducible
from softgrpo.baselines.gates import CARD, GATES, PRIORS, Gate, load_gate
from softgrpo.common.records import Part
from softgrpo.errors import PolicyError
from softgrpo.policy.number_scale import NumberScale
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.teacher import gate_data
from tests.softgrpo.baselines.cases import fitted, small_config, small_prepared, switch_data

BESIDE = {
    "thirds": set[str](),
    "neighbours": {"windows.safetensors"},
    "dirichlet": {"network.safetensors"},
    "stacking": {"coefficients.safetensors"},
    "boosting": {"trees.skops"},
    "network": {"network.safetensors"},
    "discrete": {"network.safetensors"},
}
"""What each kind stores beside its card."""


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A small corpus whose lists are known."""
    return small_prepared(small_config())


@pytest.fixture(scope="module")
def gates(prepared: Prepared) -> dict[str, Gate]:
    """All kinds, fitted on it."""
    return {kind: fitted(prepared, kind) for kind in GATES}


def asked(prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of the test windows and the lengths of their histories."""
    rows = prepared.windows.of(Part.TEST)
    return prepared.numbers.values[rows], prepared.windows.start[rows]


@pytest.mark.parametrize("kind", GATES)
def test_a_gate_from_files_says_the_same_to_the_last_digit(
    prepared: Prepared, gates: dict[str, Gate], kind: str, tmp_path: Path
) -> None:
    gate = gates[kind]
    gate.save(tmp_path / kind)
    assert {path.name for path in (tmp_path / kind).iterdir()} == {CARD, *BESIDE[kind]}
    loaded = load_gate(tmp_path, kind)
    assert (loaded.kind, loaded.scale.names, loaded.label) == (kind, prepared.numbers.names, GATES[kind].label)
    assert (loaded.valid_ndcg, loaded.choice) == (gate.valid_ndcg, gate.choice)
    expected = gate.weights(*asked(prepared))
    assert np.array_equal(loaded.weights(*asked(prepared)), expected)
    values, history = asked(prepared)
    assert np.allclose(loaded.weights(values[:1], history[:1]), expected[:1], atol=1e-6), "one window at a time too"
    assert np.allclose(expected.sum(1), 1)


def test_equal_trees_give_equal_files(tmp_path: Path) -> None:
    """skops alone writes memory addresses and times."""
    data, _, _ = switch_data(200, 60, 40)
    for name in ("one", "other"):
        Gate("boosting", NumberScale.unknown(("side", "noise")), boosting.fit_trees(data)).save(tmp_path / name)
    one, other = ((tmp_path / name / boosting.STORED).read_bytes() for name in ("one", "other"))
    assert one == other
    assert dumps([1.5]) != reproducible(dumps([1.5])) and loads(reproducible(dumps([1.5, "a"]))) == [1.5, "a"]


@pytest.mark.parametrize("kind", GATES)
def test_what_was_learnt_is_stored_and_not_only_the_start(kind: str, tmp_path: Path) -> None:
    """On the problem with an answer all gates differ from the mixture; their weights depend on the window."""
    data, about, _ = switch_data(200, 60, 40)
    scale = NumberScale.unknown(("side", "noise"))
    gate = Gate(kind, scale, GATES[kind].fit(data))
    gate.save(tmp_path / kind)
    values = about.numbers.double().numpy()
    expected = gate.weights(values, about.history)
    assert expected[:, 0].std() > 0.01
    assert np.array_equal(load_gate(tmp_path, kind).weights(values, about.history), expected)


def test_trees_for_the_best_recaller_are_stored_too(tmp_path: Path) -> None:
    """Those of the NDCG of each recaller are in the tests above."""
    data, about, _ = switch_data(200, 60, 40)
    trees = boosting.fit_best(data.numbers[0].double().numpy(), data.train_ndcg, 1)
    assert trees.trees is not None
    gate = Gate("boosting", NumberScale.unknown(("side", "noise")), FittedTrees(trees, torch.zeros(2), 3, 0.5, "trees"))
    gate.save(tmp_path / "boosting")
    values = about.numbers.double().numpy()
    assert np.array_equal(load_gate(tmp_path, "boosting").weights(values), gate.weights(values))


def test_trees_where_one_recaller_is_always_best_are_stored_too(tmp_path: Path) -> None:
    scale = NumberScale(("items",), np.zeros(1), np.ones(1))
    trees = FittedTrees(BestTrees(None, (1,), 2), torch.zeros(2), 3, 0.5, "trees")
    Gate("boosting", scale, trees).save(tmp_path / "gate")
    # power 1 of (0, 1), the zero raised to 0.001: (0.001, 1) / 1.001
    assert Gate.load(tmp_path / "gate").weights(np.zeros((1, 1)))[0] == pytest.approx([0.001 / 1.001, 1 / 1.001])


def test_the_best_gate_is_the_one_that_validation_prefers(prepared: Prepared, gates: dict[str, Gate]) -> None:
    best = Gate.best(*gate_data(prepared, prepared.rewarded_rows()))
    assert best.valid_ndcg == max(gates[kind].valid_ndcg for kind in PRIORS)


@pytest.mark.parametrize(
    ("values", "history", "message"),
    [
        (np.zeros((3, 1)), None, r"shape \(3, 1\).*reads {F} numbers"),
        (None, None, r"no lengths of the histories of 40 windows.*'thirds'.*POLICY-042"),
        (None, np.ones(3, int), r"lengths of shape \(3,\) of the histories of 40 windows"),
    ],
)
def test_a_gate_says_what_it_reads(
    prepared: Prepared, gates: dict[str, Gate], values: object, history: object, message: str
) -> None:
    gate = gates["thirds"]
    given = asked(prepared)[0] if values is None else values
    with pytest.raises(PolicyError, match=message.replace("{F}", str(len(prepared.numbers.names)))):
        gate.weights(given, history)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_none_are_named(prepared: Prepared, gates: dict[str, Gate], wrong: float) -> None:
    values = asked(prepared)[0].copy()
    values[2, 1] = wrong
    name = prepared.numbers.names[1]
    with pytest.raises(PolicyError, match=rf"{name} = {wrong} in window 2.*POLICY-041"):
        gates["stacking"].weights(values)


@pytest.mark.parametrize("kind", GATES)
def test_a_damaged_file_is_refused(prepared: Prepared, gates: dict[str, Gate], kind: str, tmp_path: Path) -> None:
    """One bit of what lies beside the card, or half of the card."""
    gates[kind].save(tmp_path / kind)
    path = tmp_path / kind / next(iter(BESIDE[kind]), CARD)
    content = bytearray(path.read_bytes())
    if path.name == CARD:
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(PolicyError, match=rf"{kind}'.*POLICY-040"):
        load_gate(tmp_path, kind)


def test_a_card_that_says_something_else_is_refused(prepared: Prepared, gates: dict[str, Gate], tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=rf"holds no {CARD}.*POLICY-037"):
        load_gate(tmp_path, "network")
    gates["network"].save(tmp_path / "network")
    path = tmp_path / "network" / CARD
    card = json.loads(path.read_text())
    fewer = {name: value for name, value in card.items() if name != "reading"}
    for wrong in ({**card, "kind": "stacking"}, {**card, "kind": "oracle"}, {**card, "names": ["a"]}, fewer, [card]):
        path.write_text(json.dumps(wrong))
        with pytest.raises(PolicyError, match="POLICY-040"):
            load_gate(tmp_path, "network")


def test_a_stored_gate_runs_no_code_of_its_own(prepared: Prepared, gates: dict[str, Gate], tmp_path: Path) -> None:
    """Also where somebody gave the card the digest of the file."""
    gates["boosting"].save(tmp_path / "boosting")
    dump([argparse.Namespace(a=1)], tmp_path / "boosting" / boosting.STORED)
    path = tmp_path / "boosting" / CARD
    card = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in card.items() if name != FILES}))
    with pytest.raises(PolicyError, match=r"Untrusted.*Namespace.*POLICY-040"):
        load_gate(tmp_path, "boosting")


@pytest.mark.parametrize("kind", PRIORS)
def test_gates_of_earlier_versions_are_read(
    prepared: Prepared, gates: dict[str, Gate], kind: str, tmp_path: Path
) -> None:
    """Their cards had no digests."""
    gate = gates[kind]
    gate.save(tmp_path / "gate")
    path = tmp_path / "gate" / CARD
    card = json.loads(path.read_text())
    del card[FILES]
    path.write_text(json.dumps(card))
    assert np.array_equal(Gate.load(tmp_path / "gate").weights(*asked(prepared)), gate.weights(*asked(prepared)))
