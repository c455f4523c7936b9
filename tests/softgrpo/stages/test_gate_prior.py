"""The prior per window: a policy that starts at the best gate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from softgrpo.algorithm.batching import PromptCollator, PromptRows, predict_logits
from softgrpo.common.artifacts import GATE
from softgrpo.common.records import Part
from softgrpo.config import ExperimentConfig, PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.model import create_policy, load_policy, store_policy
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.prior import floored_log, starting_weights
from softgrpo.stages import gate_prior, teacher
from softgrpo.stages.policy_rows import keep_prior, load_prior, save_prior
from tests.softgrpo.baselines.cases import small_config, small_prepared
from tests.support.toy_policy import save_base, toy_decoder, toy_encoder, toy_rows, toy_tokenizer

RECALLERS = ("BPR", "SASRec", "ItemKNN")
STATIC = np.array([0.7, 0.3, 0.0])
SCALE = NumberScale(("items", "age"), np.zeros(2), np.ones(2))


def test_the_floor_by_hand() -> None:
    # (0.7, 0.3, 0) raised to 0.02: (0.7, 0.3, 0.02) / 1.02; the second row needs no floor
    logs = floored_log(np.array([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5]]), 0.02)
    assert np.exp(logs) == pytest.approx(np.array([[0.7 / 1.02, 0.3 / 1.02, 0.02 / 1.02], [0.2, 0.3, 0.5]]))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("numbers", ["none", "head", "tokens"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("make", [toy_encoder, toy_decoder])
def test_training_starts_exactly_at_the_weights_of_each_window(
    tmp_path: Path, make: Any, adapter: str, numbers: str, bf16: bool
) -> None:
    name = save_base(tmp_path / "base", make(), toy_tokenizer())
    config = PolicyConfig(model_name=name, adapter=adapter, numbers=numbers, prior="gate", lora_r=4, lora_alpha=8)
    policy = create_policy(config, RECALLERS, 32, STATIC, seed=3, scale=SCALE)
    generator = np.random.default_rng(2)
    expected = floored_log(generator.dirichlet(np.ones(3), 24), 0.002).astype(np.float32)
    columns = {"log_prior": expected, "numbers": generator.normal(size=(24, 2)).astype(np.float32)}
    rows = PromptRows(toy_rows().input_ids, {k: v for k, v in columns.items() if k == "log_prior" or numbers != "none"})

    def logits(model: Any, given: PromptRows = rows) -> torch.Tensor:
        return predict_logits(model, given, PromptCollator(toy_tokenizer()), 8, bf16, "test")

    assert torch.equal(logits(policy.model), torch.from_numpy(expected))
    store_policy(tmp_path / "saved", policy, merge=True)
    loaded = load_policy(tmp_path / "saved", config, RECALLERS)
    assert loaded.card.prior_per_window and loaded.card.prior is None
    assert torch.equal(logits(loaded.model), torch.from_numpy(expected))
    if adapter == "lora":
        merged = load_policy(tmp_path / "saved" / "merged", config.model_copy(update={"adapter": "none"}))
        assert torch.equal(logits(merged.model), torch.from_numpy(expected))
    without = PromptRows(rows.input_ids, {k: v for k, v in rows.columns.items() if k != "log_prior"})
    with pytest.raises(PolicyError, match="a batch without log_prior"):
        logits(policy.model, without)


def test_a_policy_that_starts_at_a_gate_leaves_the_row_of_the_mixture_alone() -> None:
    assert (starting_weights(STATIC, PolicyConfig(prior="gate", prior_floor=0.1)).numpy() == STATIC).all()


class Told:
    """Stands for a gate: the share that it gives the first recaller tells which windows it learnt from."""

    kind = "network"

    def __init__(self, train: np.ndarray[Any, Any]) -> None:
        self.train = train
        self.share = 0.1 + (int((train**2).sum()) % 97) / 200

    @classmethod
    def best(cls, train: Any, scale: None) -> Told:
        """Returns a gate that learnt from some windows."""
        return cls(train)

    @classmethod
    def fit(cls, kind: str, train: Any, scale: None) -> Told:
        """Returns one of the same kind."""
        assert kind == "network"
        return cls(train)

    def weights(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns the same weights for every window."""
        return np.tile([self.share, 1 - self.share], (len(values), 1))


def test_no_policy_window_starts_at_a_gate_that_saw_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = small_prepared(small_config())
    learnt = prepared.rewarded_rows()
    fitted: list[Told] = []

    def note(held: Any, train: Any) -> Any:
        fitted.append(Told(train))
        return train, None

    for module in (gate_prior, teacher):
        monkeypatch.setattr(module, "gate_data", note)
        monkeypatch.setattr(module, "Gate", Told)
    _, logs = gate_prior.fit_gate_prior(prepared)
    whole, *halves = fitted
    assert np.array_equal(whole.train, learnt) and len(halves) == 2 and len({each.share for each in fitted}) == 3
    assert sorted(np.concatenate([half.train for half in halves])) == learnt.tolist()
    others = np.setdiff1d(np.arange(len(prepared.windows)), learnt)
    assert others.size and np.allclose(np.exp(logs[others, 0]), whole.share)
    for one, other in (halves, halves[::-1]):
        assert np.allclose(np.exp(logs[one.train, 0]), other.share)
    assert np.allclose(np.exp(logs).sum(1), 1) and logs.shape == (len(prepared.windows), 2)


def test_answers_of_test_windows_change_no_prior() -> None:
    config = small_config()
    (_, one), (_, other) = (gate_prior.fit_gate_prior(small_prepared(config, seed)) for seed in (7, 8))
    first, second = (small_prepared(config, seed) for seed in (7, 8))
    test = first.windows.of(Part.TEST)
    assert not np.array_equal(first.features.ndcg[test], second.features.ndcg[test]), "the answers do differ"
    assert np.array_equal(one, other)


def test_a_gate_that_is_not_stored_is_refused_before_training(tmp_path: Path) -> None:
    name = save_base(tmp_path / "base", toy_encoder(), toy_tokenizer())
    card = create_policy(PolicyConfig(model_name=name, prior="gate"), RECALLERS, 32, STATIC, seed=3).card
    plain = create_policy(PolicyConfig(model_name=name), RECALLERS, 32, STATIC, seed=3).card

    def of(windows: int) -> Any:
        return SimpleNamespace(windows=range(windows))

    assert load_prior(of(5), tmp_path, plain) is None
    with pytest.raises(PolicyError, match=r"without log_prior\.safetensors.*this run's 5 windows"):
        load_prior(of(5), tmp_path, card)
    stored = np.log(np.full((5, 3), 1 / 3, np.float32))
    save_prior(tmp_path, stored)
    assert np.array_equal(load_prior(of(5), tmp_path, card), stored)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=r"of shape \(5, 3\).*this run's 6 windows"):
        load_prior(of(6), tmp_path, card)
    (tmp_path / GATE).mkdir()
    (tmp_path / GATE / "gate.json").write_text("{}")
    (tmp_path / "next").mkdir()
    keep_prior(tmp_path, tmp_path / "next")
    assert {path.name for path in (tmp_path / "next").iterdir()} == {GATE, "log_prior.safetensors"}


@pytest.mark.parametrize(("stored", "prior"), [(True, "static"), (False, "none")])
def test_the_setting_of_earlier_runs_still_reads(stored: bool, prior: str) -> None:
    config = ExperimentConfig.model_validate({"policy": {"static_prior": stored, "prior_floor": 0.1}})
    assert (config.policy.prior, config.policy.prior_floor) == (prior, 0.1)
    with pytest.raises(ValueError, match="static_prior is the earlier name of prior"):
        PolicyConfig.model_validate({"static_prior": stored, "prior": "gate"})
