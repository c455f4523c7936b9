"""What the stages give a policy to read, and how fast its head learns to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from softgrpo.config import ExperimentConfig, PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.card import PolicyCard
from softgrpo.policy.head_rate import head_rate
from softgrpo.stages import policy_rows
from softgrpo.stages.policy_rows import load_for, rows_of


@pytest.mark.parametrize(
    ("numbers", "chosen", "rate"), [("none", None, None), ("head", None, 3e-3), ("head", 0.1, 0.1)]
)
def test_a_head_that_reads_numbers_learns_at_a_rate_of_its_own(numbers: Any, chosen: Any, rate: Any) -> None:
    assert head_rate(PolicyConfig(numbers=numbers), chosen) == rate


def test_stages_give_a_policy_the_numbers_it_was_trained_on_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = PolicyCard("toy", {}, ("A", "B"), 64, "none", None, reads_numbers="head", numbers=("items", "A: gap"))
    policy: Any = SimpleNamespace(card=card)
    monkeypatch.setattr(policy_rows, "load_policy", lambda *given: policy)
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    prepared: Any = SimpleNamespace(
        config=ExperimentConfig(),
        recallers=("A", "B"),
        numbers=SimpleNamespace(names=("items", "A: gap"), values=values),
    )
    assert load_for(prepared, tmp_path) is policy
    prompts: Any = SimpleNamespace(input_ids=[[1], [2]])
    rows = rows_of(prepared, np.array([2, 0]), policy, prompts, {"label": np.array([7, 8])})
    assert rows[0]["numbers"].tolist() == [5.0, 6.0] and rows[1]["numbers"].dtype == np.float32
    assert rows[1]["label"] == 8 and "log_prior" not in rows[0]
    prepared.numbers.names = ("items", "A: spread")
    with pytest.raises(PolicyError, match="numbers without A: gap and with A: spread"):
        load_for(prepared, tmp_path)
