"""Rows, batches, order of rows, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from softgrpo.algorithm.batching import (
    FixedOrder,
    GroupSampler,
    PromptCollator,
    PromptRows,
    padding_share,
    policy_logits,
    predict_logits,
    token_counts,
)
from softgrpo.errors import TrainingError
from tests.support.toy_policy import toy_decoder, toy_encoder, toy_rows, toy_tokenizer

# ---------------------------------------------------------------- the order of training


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_the_sampler_covers_all_rows_and_repeats_groups(
    rows: int, group: int, repeats: int, seed: int, grouped: bool
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 30, rows) if grouped else None
    sampler = GroupSampler(rows, group, repeats, seed, lengths)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == math.ceil(rows / group) * group * repeats
    groups = [drawn[start : start + group] for start in range(0, len(drawn), group)]
    for first in range(0, len(groups), repeats):
        assert all(each == groups[first] for each in groups[first : first + repeats])
    once = [row for each in groups[::repeats] for row in each]
    assert set(once) == set(range(rows))  # each row at least once
    if rows >= group:  # what fills the last group comes once more, but not in that group
        assert max(np.bincount(once)) <= 2 and all(len(set(each)) == group for each in groups)
    assert drawn == list(GroupSampler(rows, group, repeats, seed, lengths))


@pytest.mark.parametrize("lengths", [None, np.arange(30) % 7])
def test_the_sampler_differs_by_epoch_and_seed(lengths: Any) -> None:
    sampler = GroupSampler(30, 4, 1, 0, lengths)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first == list(sampler) and first != second and first != list(GroupSampler(30, 4, 1, 1, lengths))


def test_groups_are_sorted_chunks() -> None:
    # 16 rows, groups of 2: 16 // (4 * 2) = 2 groups per chunk, so 4 chunks of 4 rows of the permutation; in each the two
    # shorter rows are one group and the two longer ones another; then the 8 groups are shuffled
    lengths = np.array([5, 3, 8, 1, 9, 2, 7, 4, 6, 11, 10, 12, 16, 14, 13, 15])
    chunks = np.random.default_rng([3, 0]).permutation(16).reshape(4, 4)
    expected = set()
    for chunk in chunks:
        rising = sorted(chunk.tolist(), key=lambda row: lengths[row])
        expected |= {tuple(rising[:2]), tuple(rising[2:])}
    drawn = list(GroupSampler(16, 2, 1, 3, lengths))
    assert {tuple(drawn[start : start + 2]) for start in range(0, 16, 2)} == expected


def test_what_a_step_sees_does_not_depend_on_how_it_is_cut() -> None:
    # 2 processes get the micro batches 0, 2, ... and 1, 3, ... of the same list: a step's rows stay together
    lengths = np.arange(64)[::-1].copy()
    drawn = np.array(list(GroupSampler(64, 8, 1, 0, lengths))).reshape(8, 4, 2)  # steps, micro batches, rows
    by_process = np.concatenate([drawn[:, 0::2].reshape(8, 4), drawn[:, 1::2].reshape(8, 4)], axis=1)
    assert np.array_equal(np.sort(by_process, axis=1), np.sort(drawn.reshape(8, 8), axis=1))


def test_prompts_of_similar_length_need_less_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 200, 2000)
    shuffled, grouped = (lengths[list(GroupSampler(2000, 16, 1, 0, given))] for given in (None, lengths))
    # uniform on 20..199: mean 109.5; the longest of 16 is on average 20 + 180 * 16 / 17 = 189: 1 - 109.5 / 189 = 0.42
    assert padding_share(shuffled, 16) == pytest.approx(0.42, abs=0.02)
    assert padding_share(grouped, 16) < 0.04


def test_padding_share_by_hand() -> None:
    # batches (2, 4), (3,): cells 2 * 4 + 3 = 11, tokens 9
    assert padding_share(np.array([2, 4, 3]), 2) == pytest.approx(2 / 11)
    assert padding_share(np.array([5, 5]), 2) == 0.0


def test_evaluation_begins_with_the_longest() -> None:
    order = FixedOrder.longest_first(np.array([3, 9, 3, 5]))
    assert list(order) == [1, 3, 0, 2] and len(order) == 4


# ---------------------------------------------------------------- rows and batches


def test_rows_are_counted() -> None:
    assert token_counts(PromptRows([[1, 2], [3], [4, 5, 6]], {})).tolist() == [2, 1, 3]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_collator_pads_on_the_side_of_the_tokenizer(side: str) -> None:
    rows = PromptRows([[3, 6], [4, 7, 8]], {"label": np.array([[0.5, 0.5], [1.0, 0.0]], np.float32)})
    batch = PromptCollator(toy_tokenizer(side))([rows[0], rows[1]])
    assert batch["input_ids"].tolist() == [[3, 6, 0] if side == "right" else [0, 3, 6], [4, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0] if side == "right" else [0, 1, 1], [1, 1, 1]]
    assert batch["index"].tolist() == [0, 1] and batch["label"].tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_a_tokenizer_that_cannot_pad_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"\[TRAINING-002\]"):
        PromptCollator(toy_tokenizer(pad=False))
    tokenizer = toy_tokenizer(pad=False)
    tokenizer.pad_token = tokenizer.eos_token
    assert PromptCollator(tokenizer)([toy_rows()[0]])["input_ids"].shape == (1, 2)


@pytest.mark.parametrize("missing", ["input_ids", "index"])
def test_rows_without_what_is_needed_are_refused(missing: str) -> None:
    row = {name: value for name, value in toy_rows()[0].items() if name != missing}
    with pytest.raises(TrainingError, match=f"needs '{missing}'"):
        PromptCollator(toy_tokenizer())([row])


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize("make", [toy_encoder, toy_decoder])
def test_predicted_logits_do_not_depend_on_the_batch(make: Any) -> None:
    model, rows, collator = make(), toy_rows(), PromptCollator(toy_tokenizer())
    model.train()
    one, many = (predict_logits(model, rows, collator, size, False, "test") for size in (1, 16))
    assert torch.allclose(one, many, atol=1e-5) and one.shape == (24, 3) and not one.is_inference()
    assert model.training  # as it was before
    half = predict_logits(model, rows, collator, 16, True, "test")
    assert half.dtype == torch.float32 and torch.allclose(half, many, atol=0.1) and not torch.equal(half, many)


def test_predicted_logits_stand_in_the_order_of_the_rows(caplog: pytest.LogCaptureFixture) -> None:
    model, rows, collator = toy_encoder(dropout=0.0), toy_rows(), PromptCollator(toy_tokenizer())
    with caplog.at_level("INFO", "softgrpo"), torch.no_grad():
        found = predict_logits(model, rows, collator, 4, False, "some windows")
        for row in range(24):
            assert torch.allclose(found[row], policy_logits(model, collator([rows[row]]))[0], atol=1e-5)
    assert "some windows: padding_share = 0.0" in caplog.text


def test_policy_logits_are_float32() -> None:
    batch = PromptCollator(toy_tokenizer())([toy_rows()[0]])
    assert policy_logits(toy_encoder().bfloat16(), batch).dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_named(bad: float) -> None:
    model = toy_encoder()
    with torch.no_grad():
        model.classifier.bias[0] = bad
    with pytest.raises(TrainingError, match=r"logits hold 8 NaN or infinite values of 24.*\[TRAINING-011\]"):
        predict_logits(model, toy_rows(8), PromptCollator(toy_tokenizer()), 8, False, "test")


def logits_and_gradient(model: nn.Module, side: str, extra: int, rows: PromptRows) -> tuple[Tensor, Tensor]:
    """Returns logits (B, M), and the gradient of all weights with respect to their squared sum, as one vector."""
    batch = PromptCollator(toy_tokenizer(side))([rows[row] for row in range(len(rows))])
    padding = (extra, 0) if side == "left" else (0, extra)
    wide = {name: nn.functional.pad(batch[name], padding) for name in ("input_ids", "attention_mask")}
    model.zero_grad()
    logits = policy_logits(model, wide)
    logits.square().sum().backward()
    gradient = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    return logits.detach(), gradient


@pytest.mark.parametrize(
    ("make", "sides"), [(toy_encoder, ("right",)), (toy_decoder, ("left", "right"))], ids=["encoder", "decoder"]
)
def test_padding_changes_neither_logits_nor_gradients(make: Any, sides: tuple[str, ...]) -> None:
    model = make().eval()
    rows = toy_rows(6)
    alone = [logits_and_gradient(model, "right", 0, PromptRows([rows.input_ids[row]], {})) for row in range(6)]
    expected = torch.cat([logits for logits, _ in alone]), torch.stack([gradient for _, gradient in alone]).sum(0)
    for side in sides:
        for extra in (0, 3):
            logits, gradient = logits_and_gradient(model, side, extra, rows)
            assert torch.allclose(logits, expected[0], atol=1e-5)
            assert torch.allclose(gradient, expected[1], atol=1e-4, rtol=1e-4)
