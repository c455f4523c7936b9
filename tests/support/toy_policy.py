"""A toy language model, tokenizer and problem, shared by the tests of training and of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from softgrpo.algorithm.batching import PromptRows

WORDS = ["[PAD]", "[UNK]", "</s>", "red", "green", "blue", "a", "b", "c", "d", "e", "f"]
CLASSES = 3
OPTIMA = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])  # best weights of red, green, blue


def toy_tokenizer(padding_side: str = "right", pad: bool = True) -> PreTrainedTokenizerFast:
    """Returns a word tokenizer with an end token and, if wanted, a padding token."""
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        eos_token="</s>",
        pad_token="[PAD]" if pad else None,
        padding_side=padding_side,
    )


def toy_encoder(seed: int = 0, dropout: float = 0.1, classes: int = CLASSES) -> BertForSequenceClassification:
    """Returns a randomly initialised BERT of one layer and hidden size 16."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=classes,
        pad_token_id=0,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config)


def toy_decoder(seed: int = 0, classes: int = CLASSES) -> LlamaForSequenceClassification:
    """Returns a randomly initialised Llama of two layers and hidden size 16."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=classes,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        initializer_range=0.2,
    )
    return LlamaForSequenceClassification(config)


def save_base(folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> str:
    """Writes a base model as a local folder, and returns its name."""
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return str(folder)


def toy_rows(count: int = 24) -> PromptRows:
    """Returns prompts of a colour and 1 to 5 further words; the column `colour` says which colour."""
    generator = torch.Generator().manual_seed(99)
    colours = [row % CLASSES for row in range(count)]
    fillers = [torch.randint(6, 12, (1 + row % 5,), generator=generator).tolist() for row in range(count)]
    return PromptRows([[3 + colour, *rest] for colour, rest in zip(colours, fillers, strict=True)], {"colour": colours})


def toy_reward(weights: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Returns `1 - |w - w*|^2` where the colour of the prompt decides the best weights w*."""
    best = OPTIMA[batch["colour"].cpu()][:, None]  # (B, 1, M)
    return 1.0 - (weights - best).square().sum(-1)
