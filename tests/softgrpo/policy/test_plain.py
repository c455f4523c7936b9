"""Policies without their wrapper: the same weights from transformers alone, and a clear answer where that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from softgrpo.config import PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.model import Policy, create_policy, save_policy
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.plain import as_plain, why_not_plain
from softgrpo.serving.pure_models import load_policy
from tests.support.toy_policy import save_base, toy_decoder, toy_encoder, toy_tokenizer

RECALLERS = ("BPR", "SASRec", "ItemKNN")
PROMPTS = ["red a b", "green c d e f", "blue"]
SCALE = NumberScale(("x", "BPR: y"), np.zeros(2), np.ones(2))


def moved(folder: Path, weights: Any = (0.7, 0.2, 0.1), tau: float = 0.4, **settings: Any) -> Policy:
    """Returns a policy whose weights all differ from their start, read at a temperature."""
    decoder = settings.pop("decoder", False)
    base = save_base(folder / "base", toy_decoder() if decoder else toy_encoder(), toy_tokenizer())
    scale = SCALE if settings.get("numbers", "none") != "none" else None
    policy = create_policy(PolicyConfig(model_name=base, **settings), RECALLERS, 32, np.array(weights), 3, scale)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in policy.model.parameters():
            if value.requires_grad:
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
    policy.model.eval()
    return Policy(policy.model, policy.tokenizer, replace(policy.card, reading_tau=tau))


def weights_of(model: Any, tokenizer: Any, tau: float) -> Tensor:
    """Returns the weights of the prompts, (3, M)."""
    with torch.no_grad():
        logits: Tensor = model(**tokenizer(PROMPTS, return_tensors="pt", padding=True)).logits
    return (logits / tau).softmax(-1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"prior": "none"}, {"adapter": "lora", "lora_r": 4}, {"decoder": True, "prior": "none"}],
    ids=["prior", "no prior", "adapters", "decoder without prior"],
)
def test_transformers_alone_give_the_same_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    policy = moved(tmp_path, **settings)
    expected = weights_of(policy.model, policy.tokenizer, 0.4)
    save_policy(tmp_path / "plain", as_plain(policy))
    folder = str(tmp_path / "plain")
    model, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.testing.assert_close(weights_of(model.eval(), tokenizer, 1.0), expected, rtol=0, atol=1e-6)
    classify = pipeline("text-classification", model=folder, top_k=None, device="cpu")
    for answer, row in zip(classify(PROMPTS), expected.tolist(), strict=True):
        given = {entry["label"]: entry["score"] for entry in answer}
        assert given == pytest.approx(dict(zip(RECALLERS, row, strict=True)), abs=1e-6)
    again = load_policy(folder)  # the wrapper's own loader reads it too
    torch.testing.assert_close(
        weights_of(again.model, again.tokenizer, again.card.reading_tau), expected, rtol=0, atol=1e-6
    )


def test_the_policy_itself_stays_as_it_is(tmp_path: Path) -> None:
    policy = moved(tmp_path)
    before = weights_of(policy.model, policy.tokenizer, 0.4)
    as_plain(policy)
    assert torch.equal(weights_of(policy.model, policy.tokenizer, 0.4), before)
    assert policy.card.reading_tau == 0.4 and policy.card.prior is not None


def test_a_decoder_takes_a_prior_that_favours_nobody(tmp_path: Path) -> None:
    policy = moved(tmp_path, weights=(1 / 3, 1 / 3, 1 / 3), decoder=True)
    plain = as_plain(policy)
    torch.testing.assert_close(
        weights_of(plain.model, plain.tokenizer, 1.0),
        weights_of(policy.model, policy.tokenizer, 0.4),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"numbers": "head"}, "policy.numbers = head"),
        ({"numbers": "tokens"}, "policy.numbers = tokens"),
        ({"prior": "gate"}, "policy.prior = gate"),
        ({"decoder": True}, "no bias"),
    ],
)
def test_what_cannot_be_plain_says_why(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    policy = moved(tmp_path, **settings)
    assert reason in why_not_plain(policy)
    with pytest.raises(PolicyError, match=r"\[POLICY-047\]"):
        as_plain(policy)
