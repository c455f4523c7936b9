"""Dropout that is switched off is off in models that have no module for it too, and their configuration keeps its rates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import (
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    XLMConfig,
)

from softgrpo.algorithm.dropout import switch_dropout_off

HALF = 0.5
SIZE = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
IDS = torch.arange(2, 26).reshape(2, 12)


def opt() -> PreTrainedConfig:
    """Functional dropout, of attention and of whole layers."""
    rates = {"dropout": HALF, "attention_dropout": HALF, "layerdrop": HALF}
    return OPTConfig(**SIZE, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=32, **rates)


def llama() -> PreTrainedConfig:
    """A rate that attention hands on."""
    return LlamaConfig(**SIZE, intermediate_size=32, max_position_embeddings=32, attention_dropout=HALF)


def xlm() -> PreTrainedConfig:
    """Functional dropout by default."""
    return XLMConfig(vocab_size=32, emb_dim=16, n_layers=2, n_heads=2, pad_index=0, max_position_embeddings=32)


def modern_bert() -> PreTrainedConfig:
    """Modules, and a rate that attention hands on."""
    rates = {"attention_dropout": HALF, "mlp_dropout": HALF, "embedding_dropout": HALF, "classifier_dropout": HALF}
    return ModernBertConfig(**SIZE, intermediate_size=32, max_position_embeddings=32, **rates)


def bert() -> PreTrainedConfig:
    """Modules alone."""
    return BertConfig(**SIZE, intermediate_size=32, max_position_embeddings=32)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("made", [opt, llama, xlm, modern_bert, bert])
def test_two_passes_in_training_give_the_same(made: Callable[[], PreTrainedConfig], attention: str) -> None:
    torch.manual_seed(0)
    config = made()
    config.num_labels = 3
    model: PreTrainedModel = Classifier.from_config(config, attn_implementation="eager" if made is xlm else attention)
    rates = {name: value for name, value in model.config.to_dict().items() if "drop" in name}
    model.train()

    def logits() -> torch.Tensor:
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
        return found

    assert not torch.equal(logits(), logits()), "there is dropout to switch off"
    switch_dropout_off(model)
    assert torch.equal(logits(), logits())
    trained = logits()
    assert torch.allclose(trained, model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits, atol=1e-6)
    assert {name: value for name, value in model.config.to_dict().items() if "drop" in name} == rates
