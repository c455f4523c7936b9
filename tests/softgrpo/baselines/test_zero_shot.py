"""Zero-shot answers against one forward pass per answer, and which models can give them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from softgrpo.baselines.zero_shot import (
    answer_likelihoods,
    can_generate,
    load_decoder,
    option_tokens,
    zero_shot_weights,
)
from softgrpo.errors import PolicyError
from tests.support.toy_policy import save_base, toy_decoder, toy_encoder, toy_tokenizer

PROMPTS = [[3, 6, 7], [4, 8, 9, 10, 11], [5]]
OPTIONS = [[6], [7, 8, 9], [10, 3]]


@pytest.fixture(scope="module")
def decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(toy_decoder().config).eval()


def by_hand(model: LlamaForCausalLM, prompt: list[int], option: list[int]) -> float:
    """Returns the mean log-likelihood of the tokens of an answer, all read at once."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *option]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(option)) / len(option)


def test_answers_are_as_likely_as_in_one_pass_each(decoder: LlamaForCausalLM) -> None:
    tokenizer = toy_tokenizer("left")
    batch = tokenizer.pad({"input_ids": PROMPTS}, return_tensors="pt")
    with torch.inference_mode():
        found = answer_likelihoods(decoder, batch["input_ids"], batch["attention_mask"], OPTIONS)
    expected = [[by_hand(decoder, prompt, option) for option in OPTIONS] for prompt in PROMPTS]
    assert found.tolist() == [pytest.approx(row, abs=1e-5) for row in expected]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_change_nothing(decoder: LlamaForCausalLM, batch_size: int) -> None:
    tokenizer = toy_tokenizer("left")
    names = ("a", "b c", "d")
    weights = zero_shot_weights(decoder, tokenizer, PROMPTS, names, batch_size, bf16=False)
    options = option_tokens(names, tokenizer)
    assert [len(option) for option in options] == [1, 2, 1]
    for prompt, row in zip(PROMPTS, weights, strict=True):
        scores = torch.tensor([by_hand(decoder, prompt, option) for option in options], dtype=torch.float64)
        assert row.tolist() == pytest.approx(scores.softmax(-1).tolist(), abs=1e-5)


def test_decoders_answer_and_encoders_do_not(tmp_path: Path) -> None:
    decoder = save_base(tmp_path / "decoder", toy_decoder(), toy_tokenizer())
    encoder = save_base(tmp_path / "encoder", toy_encoder(), toy_tokenizer())
    assert can_generate(decoder)
    assert not can_generate(encoder)
    with pytest.raises(PolicyError, match="Only a decoder can answer"):
        load_decoder(encoder)


def test_a_decoder_is_loaded_with_its_prompts_ending_where_answers_begin(
    tmp_path: Path, decoder: LlamaForCausalLM
) -> None:
    name = save_base(tmp_path, decoder, toy_tokenizer())
    model, tokenizer = load_decoder(name)
    assert tokenizer.padding_side == "left"
    assert not model.training
    assert by_hand(model, PROMPTS[0], OPTIONS[1]) == pytest.approx(by_hand(decoder, PROMPTS[0], OPTIONS[1]), abs=1e-6)
