from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from softgrpo.evaluation.learnt import learnt, learnt_sentence
from softgrpo.evaluation.summary import SUMMARY, Summary, read_summary, write_summary
from softgrpo.evaluation.table import Comparison
from tests.softgrpo.evaluation.setup_small import USERS, Small

HALF = torch.full((USERS, 2), 0.5, dtype=torch.float64)


def with_weights(case: Small, **weights: Tensor) -> Comparison:
    rows = [
        dataclasses.replace(row, weights=weights[row.key]) if row.key in weights else row
        for row in case.comparison.methods
    ]
    return dataclasses.replace(case.comparison, methods=tuple(rows))


def test_a_policy_that_tells_users_apart(case: Small) -> None:
    # users alternate between (0.9, 0.1) and (0.1, 0.9): a standard deviation of 0.4, and 0.4 of the weight away from a half each
    found = learnt(with_weights(case, sft_multi=HALF), "grpo_multi", static_prior=True)
    assert found.spread == pytest.approx(0.4)
    assert found.moved == pytest.approx(0.4)
    assert not found.kept
    assert not found.uniform
    sentence = learnt_sentence(with_weights(case, sft_multi=HALF), "grpo_multi", static_prior=True)
    assert sentence == (
        "SofT-GRPO multi moved 0.4 of the weight away from its starting point, SFT multi; "
        "its weights differ between users (standard deviation 0.4, mean over recallers)."
    )


def test_both_trainings_kept_their_start(case: Small) -> None:
    start = torch.tensor([0.7, 0.3], dtype=torch.float64).expand(USERS, 2)
    comparison = with_weights(case, static=start, sft_multi=start, grpo_multi=start + 5e-7)
    sentence = learnt_sentence(comparison, "grpo_multi", static_prior=True)
    label = "the b" + comparison.method("static").label.removeprefix("B")
    assert sentence == (
        f"SofT-GRPO multi and SFT multi both kept their starting point, {label}: nothing was learnt; "
        "this policy gives every user the same weights."
    )
    assert not learnt(with_weights(case, static=start, sft_multi=start + 5e-6), "sft_multi", static_prior=True).kept


def test_grpo_kept_what_sft_learnt(case: Small) -> None:
    weights = case.comparison.method("grpo_multi").weights
    sentence = learnt_sentence(with_weights(case, static=HALF, sft_multi=weights), "grpo_multi", static_prior=True)
    label = "the b" + case.comparison.method("static").label.removeprefix("B")
    assert sentence.startswith(
        f"SofT-GRPO multi kept its starting point, SFT multi, which had moved 0.4 of the weight away from {label}; "
        "its weights differ between users"
    )


def test_rounding_is_no_difference_between_users(case: Small) -> None:
    """As in a run whose SFT moved next to nothing: the weights of two users differ by 2e-5."""
    start = torch.tensor([0.7, 0.3], dtype=torch.float64).expand(USERS, 2)
    step = torch.where(torch.arange(USERS) % 2 == 0, 2e-5, 0.0).double()
    weights = start + torch.stack([step, -step], 1)
    comparison = with_weights(case, static=start, sft_multi=weights, grpo_multi=weights)
    label = "the b" + case.comparison.method("static").label.removeprefix("B")
    assert learnt_sentence(comparison, "grpo_multi", static_prior=True) == (
        f"SofT-GRPO multi kept its starting point, SFT multi, which had moved 1e-05 of the weight away from {label}: "
        "practically nothing was learnt; this policy gives every user practically the same weights (they differ by at most 2e-05)."
    )


def test_a_policy_without_a_prior_started_at_random(case: Small) -> None:
    found = learnt(with_weights(case, sft_multi=HALF, static=HALF), "sft_multi", static_prior=False)
    assert found.start is None
    assert not found.kept
    sentence = learnt_sentence(with_weights(case, sft_multi=HALF), "sft_multi", static_prior=False)
    assert sentence == "SFT multi started from random weights; this policy gives every user the same weights."


def test_a_summary_comes_back_as_it_was(tmp_path: Path) -> None:
    summary = Summary(10, "grpo_multi", "BPR", "static", ("One.", "Two."), "")
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == summary
    assert summary.sentences == ("One.", "Two.")


def test_a_folder_of_an_earlier_version_has_no_summary(tmp_path: Path) -> None:
    assert not (tmp_path / SUMMARY).exists()
    assert read_summary(tmp_path) is None
