"""The choice among all methods, on the validation windows that policies were chosen by."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from softgrpo.config import PolicyConfig
from softgrpo.errors import DataError
from softgrpo.evaluation.chosen import Chosen, UsableMethod, write_chosen
from softgrpo.policy.card import PolicyCard
from softgrpo.stages.choice import choose_method, policy_methods
from softgrpo.stages.test import describe_model

STEPS = [0.0, 5.0, 10.0]
CURVES = {
    "eval_ndcg_best_reading": {"step": STEPS, "value": [0.2, 0.45, 0.3]},
    "eval_ndcg_multi": {"step": STEPS, "value": [0.2, 0.4, 0.3]},
    "eval_ndcg_multi_tau": {"step": STEPS, "value": [0.1, 0.45, 0.2]},
    "eval_ndcg_single": {"step": STEPS, "value": [0.6, 0.35, 0.9]},
}
"""The model of step 5 is the one that was kept."""


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Three validation windows: A is best in the first, B in the two others; and two policies."""
    folders = {name: tmp_path / name for name in ("gates", "sft", "grpo")}
    for folder in folders.values():
        folder.mkdir()
    ndcg = pd.DataFrame({"window": [10, 11, 12], "A": [1.2, 0.0, 0.0], "B": [0.0, 0.5, 0.4]})
    ndcg.to_parquet(folders["gates"] / "valid_ndcg.parquet")
    methods = [UsableMethod(name, name, "single", 0.0, weights) for name, weights in (("A", (1, 0)), ("B", (0, 1)))]
    write_chosen(folders["gates"], Chosen(5, 3, "A", tuple(methods)))
    for name, tau in (("sft", 1.0), ("grpo", 0.5)):
        card = PolicyCard("toy", {}, ("A", "B"), 64, "none", None, tau)
        (folders[name] / "policy.json").write_text(json.dumps(asdict(card)))
        (folders[name] / "curves.json").write_text(json.dumps(CURVES))
    return folders


def choose(inputs: dict[str, Path], *rows: int) -> Chosen:
    """Returns what these validation windows choose."""
    prepared: Any = SimpleNamespace(choosing_rows=lambda: np.array(rows))
    return choose_method(prepared, inputs)


def test_a_policy_has_the_ndcg_that_it_was_kept_for(inputs: dict[str, Path]) -> None:
    """At the temperature that it is read at, softmax(z) or softmax(z / tau); not what any other step reached."""
    found = {each.key: each.valid_ndcg for stage in ("sft", "grpo") for each in policy_methods(inputs[stage], stage)}
    assert found == {"sft_single": 0.35, "sft_multi": 0.4, "grpo_single": 0.35, "grpo_multi": 0.45}


def test_all_are_compared_on_the_windows_that_policies_were_chosen_by(inputs: dict[str, Path]) -> None:
    """On all three A has 0.4 and B 0.3; on the sample of two A has 0 and B 0.45, as good as SofT-GRPO and simpler."""
    whole, sample = choose(inputs, 10, 11, 12), choose(inputs, 11, 12)
    assert (whole.best, whole.windows, sample.best, sample.windows) == ("grpo_multi", 3, "B", 2)
    assert [each.valid_ndcg for each in whole.methods] == pytest.approx([0.4, 0.3, 0.35, 0.4, 0.35, 0.45])
    assert [each.valid_ndcg for each in sample.methods[:2]] == pytest.approx([0.0, 0.45])
    assert sample.method("B").weights == (0, 1)


def test_a_policy_without_evaluations_is_no_candidate_and_is_named(
    inputs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    (inputs["grpo"] / "curves.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert choose(inputs, 10, 11, 12).best == "A"
    assert "not chosen: SofT-GRPO single, SofT-GRPO multi" in caplog.text


def test_gates_that_were_judged_on_other_windows_are_refused(inputs: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="without NDCG in the 2 validation windows"):
        choose(inputs, 12, 13)
    (inputs["gates"] / "chosen.json").unlink()
    with pytest.raises(DataError, match="DATA-030"):
        choose(inputs, 10, 11)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "all weights trained"),
        ({"frozen_layers": 6}, "all weights behind 6 frozen layers trained"),
        ({"adapter": "lora", "frozen_layers": 2}, "LoRA adapters of rank 8 behind 2 frozen layers trained"),
    ],
)
def test_the_report_says_what_was_trained(changes: dict[str, Any], said: str) -> None:
    policy = PolicyConfig(**{"lora_r": 8, **changes})
    assert describe_model(policy).endswith(f", {said}")
