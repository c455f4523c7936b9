"""Embeddings of texts: the mean over real tokens, whatever stands beside them in a batch, of encoders and decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softgrpo.config import TextConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.text_encoder import TextEncoder
from tests.support.toy_policy import save_base, toy_decoder, toy_encoder, toy_tokenizer

CPU = torch.device("cpu")
TEXTS = ["red a b c d e", "green", "blue f f f", "red a b c d e f a b c", "green a"]


@pytest.fixture(params=["encoder", "encoder, padded on the left", "decoder", "decoder without a padding token"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind = request.param
    model = toy_encoder() if "encoder" in kind else toy_decoder()
    if "without" in kind:
        model.config.pad_token_id = None
    return save_base(tmp_path, model, toy_tokenizer("left" if "left" in kind else "right", pad="without" not in kind))


def test_an_embedding_is_the_mean_of_a_texts_own_hidden_states(name: str) -> None:
    encoder = TextEncoder.load(TextConfig(model_name=name, batch_size=3), CPU)
    found = encoder.embed(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        tokens = encoder.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            mean = encoder.model(input_ids=tokens).last_hidden_state[0].mean(0).numpy()  # alone, nothing is padded
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_longer_texts_lose_their_end(name: str) -> None:
    encoder = TextEncoder.load(TextConfig(model_name=name, max_length=8), CPU)
    long, short = encoder.embed(["red a b c d e f a b c", "red a b c d e f a"])
    assert np.allclose(long, short, atol=1e-6)


def test_a_text_without_a_token_has_no_embedding(tmp_path: Path) -> None:
    encoder = TextEncoder.load(TextConfig(model_name=save_base(tmp_path, toy_encoder(), toy_tokenizer())), CPU)
    found = encoder.embed(["red", " ", "blue"])
    assert not found[1].any() and np.allclose(np.linalg.norm(found[[0, 2]], axis=1), 1)
    assert not encoder.embed([" ", " "]).any()


def test_a_model_of_numbers_that_are_none_is_refused(tmp_path: Path) -> None:
    model: Any = toy_encoder()
    model.bert.embeddings.word_embeddings.weight.data[4] = torch.nan
    encoder = TextEncoder.load(TextConfig(model_name=save_base(tmp_path, model, toy_tokenizer())), CPU)
    encoder.embed(["red"])
    with pytest.raises(PolicyError, match=r"not finite.*text\.model_name.*\[POLICY-029\]"):
        encoder.embed(["red", "green"])


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    sizes = {"vocab_size": 12, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    name = save_base(tmp_path, T5Model(T5Config(**sizes)), toy_tokenizer())
    with pytest.raises(PolicyError, match=r"with a decoder behind it.*\[POLICY-028\]"):
        TextEncoder.load(TextConfig(model_name=name), CPU)


def test_errors_name_the_setting_of_the_texts() -> None:
    with pytest.raises(PolicyError, match=r"'\./nowhere'.*--text\.model_name.*\[POLICY-013\]"):
        TextEncoder.load(TextConfig(model_name="./nowhere"), CPU)
