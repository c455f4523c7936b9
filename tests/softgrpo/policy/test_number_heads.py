"""Policies that read the numbers of a window beside its prompt. Legend: B prompts, F numbers, M recallers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softgrpo.algorithm.batching import PromptCollator, PromptRows, policy_logits, predict_logits
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.config import PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.card import CARD, check_numbers, load_card
from softgrpo.policy.heads import NumbersHead
from softgrpo.policy.model import (
    Policy,
    create_policy,
    head_parameters,
    load_policy,
    save_policy,
    store_policy,
)
from softgrpo.policy.number_scale import NumberScale, Standardise
from softgrpo.policy.number_tokens import make_room, number_blocks
from softgrpo.policy.prior import static_prior
from tests.support.toy_policy import OPTIMA, save_base, toy_decoder, toy_encoder, toy_rows, toy_tokenizer

RECALLERS = ("BPR", "SASRec", "ItemKNN")
STATIC = np.array([0.7, 0.3, 0.0])
NAMES = ("items", "BPR: gap", "BPR: spread")
VALUES = np.array([[100.0, -1.0, 3.0], [300.0, 1.0, 3.0]])  # mean (200, 0, 3), standard deviation (100, 1, 0)
SCALE = NumberScale.of(NAMES, VALUES)
WAYS = ("head", "tokens")
BASES = {"encoder": toy_encoder, "decoder": toy_decoder}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def create(folder: Path, base: str, side: str = "right", **settings: Any) -> tuple[Policy, PolicyConfig]:
    """Returns a policy that reads three numbers, and its settings."""
    name = save_base(folder / base, BASES[base](), toy_tokenizer(side))
    config = PolicyConfig(**{"model_name": name, "lora_r": 4, "lora_alpha": 8, "numbers": "head", **settings})
    return create_policy(config, RECALLERS, 32, STATIC, seed=3, scale=SCALE), config


def rows_with(numbers: Tensor | None = None, count: int = 24) -> PromptRows:
    """Returns the toy prompts, with numbers of their own."""
    rows = toy_rows(count)
    if numbers is None:
        drawn = torch.randn((count, 3), generator=torch.Generator().manual_seed(7))
        numbers = torch.tensor([200.0, 0.0, 3.0]) + drawn * torch.tensor([100.0, 1.0, 1.0])
    return PromptRows(rows.input_ids, {**rows.columns, "numbers": numbers.numpy()})


def logits_of(policy: Policy, rows: PromptRows | None = None, batch: int = 8, bf16: bool = False) -> Tensor:
    """Returns the logits of the toy prompts."""
    rows = rows_with() if rows is None else rows
    return predict_logits(policy.model, rows, PromptCollator(policy.tokenizer), batch, bf16, "test")


def shake(policy: Policy) -> None:
    """Moves all trainable weights, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in policy.model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


# ---------------------------------------------------------------- by hand


def test_numbers_are_standardised_cut_off_and_0_where_they_do_not_vary() -> None:
    given = torch.tensor([[300.0, -0.5, 3.0], [200.0, 9.0, 99.0]])
    # (300 - 200) / 100 = 1; (-0.5 - 0) / 1; a number that does not vary says nothing; 9 is cut off at 5
    assert Standardise(SCALE)(given).tolist() == [[1.0, -0.5, 0.0], [0.0, 5.0, 0.0]]


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_by_hand(bias: bool) -> None:
    head = NumbersHead(nn.Linear(2, 3, bias=bias), torch.tensor([0.5, -0.5, 0.0]), SCALE)
    head.given = {"numbers": torch.tensor([[300.0, 0.0, 3.0]])}
    hidden = torch.tensor([[1.0, 3.0]])
    assert head(hidden).tolist() == [[0.5, -0.5, 0.0]]
    with torch.no_grad():
        for value in head.parameters():
            value.zero_()
        head.linear.weight[0, 1] = 2.0  # W
        head.numbers.weight[0, 0], head.text.weight[0, 1] = 0.5, 1.0  # A, B
        head.output.weight[2, 0] = 10.0  # V
    # LN((1, 3)) = (-1, 1), u = (-1, 1) / sqrt(2); W u = 2 / sqrt(2) for the first; tanh(0.5 * 1 + 1 / sqrt(2)) for the last
    unit = 1 / math.sqrt(2)
    expected = [0.5 + 2 * unit, -0.5, 10 * math.tanh(0.5 + unit)]
    assert head(hidden)[0].tolist() == pytest.approx(expected, abs=1e-4)
    tokens = head(hidden[:, None].expand(1, 4, 2))  # a decoder asks about every token
    assert tokens.shape == (1, 4, 3) and tokens[0, 3].tolist() == pytest.approx(expected, abs=1e-4)


def test_room_for_soft_tokens_is_behind_the_first_token_wherever_the_padding_is() -> None:
    ids = torch.tensor([[0, 0, 3, 4, 5], [6, 7, 0, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
    wider, known, places = make_room(ids, mask, 2)
    assert wider.tolist() == [[0, 0, 3, 3, 3, 4, 5], [6, 6, 6, 7, 0, 0, 0]]
    assert known.tolist() == [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]
    assert places.tolist() == [[3, 4], [1, 2]]


def test_each_recaller_has_a_token_and_the_other_numbers_share_one() -> None:
    names = ("items", "BPR: gap", "age", "SASRec: gap", "BPR: spread")
    assert number_blocks(names, ("BPR", "SASRec", "ItemKNN")) == [[1, 4], [3], [0, 2]]


def test_soft_tokens_that_do_not_fit_are_refused_before_training(tmp_path: Path) -> None:
    name = save_base(tmp_path / "base", toy_encoder(), toy_tokenizer())  # of 64 positions
    config = PolicyConfig(model_name=name, numbers="tokens")
    create_policy(config, RECALLERS, 62, STATIC, seed=3, scale=SCALE)  # tokens for BPR's numbers and for the other one
    with pytest.raises(
        PolicyError, match=r"at most 64 tokens, and the numbers take 2.*Lower --prompt.max_length to 62"
    ):
        create_policy(config, RECALLERS, 63, STATIC, seed=3, scale=SCALE)


# ---------------------------------------------------------------- the start


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("way", WAYS)
def test_training_starts_exactly_at_the_static_mixture(
    tmp_path: Path, way: str, base: str, adapter: str, bf16: bool
) -> None:
    policy, _ = create(tmp_path, base, adapter=adapter, numbers=way)
    expected = torch.tensor(static_prior(STATIC, 0.002))
    assert torch.equal(logits_of(policy, bf16=bf16), expected.expand(24, -1))


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(("base", "side"), [("encoder", "right"), ("decoder", "left"), ("decoder", "right")])
@pytest.mark.parametrize("way", WAYS)
def test_every_row_is_read_with_its_own_numbers_whatever_is_beside_it(
    tmp_path: Path, way: str, base: str, side: str
) -> None:
    policy, _ = create(tmp_path, base, side, numbers=way)
    shake(policy)
    together = logits_of(policy)
    assert torch.allclose(together, logits_of(policy, batch=1), atol=1e-5)
    moved = rows_with()
    moved.columns["numbers"][3] = [250.0, -2.0, 3.0]  # type: ignore[index]
    others = np.arange(24) != 3
    after = logits_of(policy, moved)
    assert torch.allclose(after[others], together[others], atol=1e-5) and (after[3] - together[3]).abs().max() > 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_without_numbers_or_with_another_count_is_refused(tmp_path: Path, way: str) -> None:
    policy, _ = create(tmp_path, "encoder", numbers=way)
    batch = PromptCollator(policy.tokenizer)([rows_with()[0]])
    assert policy_logits(policy.model, batch).shape == (1, 3)
    with pytest.raises(PolicyError, match=r"numbers of shape \(1, 2\).*reads numbers \(B, 3\)"):
        policy_logits(policy.model, {**batch, "numbers": batch["numbers"][:, :2]})
    del batch["numbers"]  # those of the last batch are forgotten
    with pytest.raises(PolicyError, match=r"a batch without numbers.*reads numbers \(B, 3\)"):
        policy_logits(policy.model, batch)


def test_a_policy_that_reads_numbers_is_not_made_without_them(tmp_path: Path) -> None:
    name = save_base(tmp_path / "base", toy_encoder(), toy_tokenizer())
    with pytest.raises(PolicyError, match=r"policy\.numbers = head without numbers"):
        create_policy(PolicyConfig(model_name=name, numbers="head"), RECALLERS, 32, STATIC, seed=3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("items", "BPR: gap"), "numbers without BPR: spread"),
        ((*NAMES, "pace"), "numbers with pace"),
        (("items", "pace", "BPR: spread"), "numbers without BPR: gap and with pace"),
        (NAMES[::-1], "numbers in another order"),
    ],
)
def test_other_numbers_than_in_training_are_refused_by_name(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    policy, _ = create(tmp_path, "encoder")
    check_numbers(policy.card, NAMES)
    with pytest.raises(PolicyError) as refusal:
        check_numbers(policy.card, given)
    assert said in str(refusal.value) and "items, BPR: gap, BPR: spread" in str(refusal.value)


# ---------------------------------------------------------------- save and load


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("way", WAYS)
def test_a_stored_policy_reads_numbers_as_before(tmp_path: Path, way: str, base: str, adapter: str) -> None:
    policy, config = create(tmp_path, base, adapter=adapter, numbers=way)
    shake(policy)
    expected = logits_of(policy)
    store_policy(tmp_path / "saved", policy, merge=True)
    loaded = load_policy(tmp_path / "saved", config, RECALLERS)
    assert loaded.card == policy.card and (loaded.card.reads_numbers, loaded.card.numbers) == (way, NAMES)
    assert torch.allclose(logits_of(loaded), expected, atol=1e-6)
    if adapter == "lora":
        plain = load_policy(tmp_path / "saved" / "merged", PolicyConfig(model_name=config.model_name))
        assert torch.allclose(logits_of(plain), expected, atol=1e-5)
    # what could be trained still can, and nothing else
    assert len(head_parameters(loaded)) == len(head_parameters(policy)) > 2


def test_a_card_of_an_earlier_version_reads_no_numbers(tmp_path: Path) -> None:
    policy, config = create(tmp_path, "encoder", numbers="none")
    save_policy(tmp_path / "saved", policy)
    card = json.loads((tmp_path / "saved" / CARD).read_text())
    del card["reads_numbers"], card["numbers"]
    (tmp_path / "saved" / CARD).write_text(json.dumps(card))
    loaded = load_policy(tmp_path / "saved", config, RECALLERS)
    assert (loaded.card.reads_numbers, loaded.card.numbers) == ("none", ())
    assert torch.equal(logits_of(loaded, toy_rows()), torch.tensor(static_prior(STATIC, 0.002)).expand(24, -1))
    card["numbers"] = ["items"]
    (tmp_path / "saved" / CARD).write_text(json.dumps(card))
    with pytest.raises(PolicyError, match="reads_numbers = none and the names of 1 numbers"):
        load_card(tmp_path / "saved")


# ---------------------------------------------------------------- learning


def worth_of_a_number(weights: Tensor, batch: Any) -> Tensor:
    """Returns `1 - |w - w*|^2` where the sign of the second number alone decides the best weights w*."""
    best = OPTIMA[(batch["numbers"][:, 1] > 0).long()][:, None]
    return 1.0 - (weights - best).square().sum(-1)


@pytest.mark.parametrize("changes", [{}, {"bf16": True, "activation_checkpointing": True}], ids=["plain", "bf16"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("way", WAYS)
def test_soft_grpo_learns_from_numbers_that_the_prompt_does_not_tell(
    tmp_path: Path, way: str, base: str, adapter: str, changes: dict[str, bool]
) -> None:
    policy, _ = create(tmp_path, base, adapter=adapter, numbers=way, prior_floor=0.1)
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(6)
    numbers = torch.stack([torch.full((24,), 200.0), signs, torch.full((24,), 3.0)], dim=1)
    rows, turned = rows_with(numbers), rows_with(numbers * torch.tensor([1.0, -1.0, 1.0]))

    def mean_reward(given: PromptRows) -> float:
        weights = logits_of(policy, given).softmax(-1)[:, None]
        return float(worth_of_a_number(weights, {"numbers": torch.from_numpy(given.columns["numbers"])}).mean())

    before = mean_reward(rows)
    args = SoftGRPOConfig(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        lr_scheduler_type="constant",
        learning_rate=1e-5,
        num_train_epochs=40,
        per_device_train_batch_size=8,
        num_generations=16,
        beta=0.0,
        top_p=1.0,
        **{"bf16": False, **changes},
    )
    SoftGRPOTrainer(
        policy.model,
        worth_of_a_number,
        args,
        rows,
        policy.tokenizer,
        head=head_parameters(policy),
        head_learning_rate=2e-2,
    ).train()
    # one set of weights for all, (0.45, 0.45, 0.1), reaches 1 - 2 * 0.35^2 = 0.755
    assert before < 0.7 and mean_reward(rows) > 0.85
    assert mean_reward(turned) > 0.8, "it learnt from the prompts by heart"


@pytest.mark.parametrize("way", WAYS)
def test_the_numbers_of_an_average_window_are_an_input_of_the_model(tmp_path: Path, way: str) -> None:
    policy, _ = create(tmp_path, "encoder", numbers=way)
    typical = policy.typical_numbers()
    torch.testing.assert_close(typical, {"numbers": torch.tensor([[200.0, 0.0, 3.0]])})
    prompt = policy.tokenizer("a b", return_tensors="pt")
    assert policy.model(**prompt, **typical).logits.shape == (1, 3)
    without = create_policy(PolicyConfig(model_name=policy.card.model_name), RECALLERS, 32, STATIC, seed=3)
    assert without.typical_numbers() == {}
