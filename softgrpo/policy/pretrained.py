"""A pretrained language model, as a sequence classifier or without a head, and its tokenizer, from any source.

Weights are read from safetensors or GGUF only, and no code of a model is run.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from softgrpo.errors import PolicyError
from softgrpo.policy.model_files import locate_weights

PLAIN_ENGLISH = "a red house, a green tree and a blue sea"


def load_tokenizer(source: str, gguf: str | None) -> PreTrainedTokenizerBase:
    """Returns a model's tokenizer; where it has no padding token, the end token pads.

    Raises:
        PolicyError: It cannot be loaded, has neither token, or does not know the words of a plain English sentence.
    """
    options = {"gguf_file": gguf} if gguf else {}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"the tokenizer of '{source}'",
            f"it cannot be loaded ({error})",
            "Add the model's tokenizer files",
            code="POLICY-021",
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise PolicyError(
                f"the tokenizer of '{source}' without a padding and without an end token",
                "the texts of a batch are padded to one length",
                "Name a pad_token in its tokenizer_config.json",
                code="POLICY-022",
            )
        tokenizer.pad_token = tokenizer.eos_token
    # without vocabulary files some tokenizers load all the same, and then every word is unknown, or nothing at all
    tokens = tokenizer(PLAIN_ENGLISH, add_special_tokens=False)["input_ids"]
    known = [token for token in tokens if token not in tokenizer.all_special_ids]
    if 2 * len(known) <= len(tokens):
        raise PolicyError(
            f"the tokenizer of '{source}', which knows {len(known)} of {len(tokens)} tokens of '{PLAIN_ENGLISH}'",
            "a tokenizer knows most tokens of plain English",
            "Add the model's tokenizer files",
            code="POLICY-023",
        )
    return tokenizer


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a sequence classifier in float32 with random weights."""
    model = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32, trust_remote_code=False
    )
    assert isinstance(model, PreTrainedModel)
    return model


def load_encoder(model_name: str) -> PreTrainedModel:
    """Returns a pretrained model in float32 without a head, for computing and not for training.

    Raises:
        PolicyError: It cannot be loaded.
    """
    model = _load(AutoModel, model_name)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _load(kind: Any, model_name: str, **options: Any) -> PreTrainedModel:
    """Returns a pretrained model in float32, by one of transformers' classes for any model."""
    source, gguf = locate_weights(model_name)
    options |= {"gguf_file": gguf} if gguf else {"use_safetensors": True}
    # it warns that the head is new, or of one that is left out, which is the point
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = kind.from_pretrained(source, dtype=torch.float32, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"model '{model_name}'", f"it cannot be loaded ({error})", "Correct --model_name", code="POLICY-024"
        ) from error
    assert isinstance(model, PreTrainedModel)
    return model


def load_base(model_name: str, classes: int) -> PreTrainedModel:
    """Returns a pretrained model in float32 with a new head of `classes` outputs.

    Raises:
        PolicyError: It cannot be loaded.
    """
    _, gguf = locate_weights(model_name)
    model = _load(AutoModelForSequenceClassification, model_name, num_labels=classes)
    if gguf is None:
        return model
    # the weights are dequantised, but the model still counts as quantised and could be neither trained nor saved
    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain = empty_model(config)
    plain.load_state_dict(model.state_dict(), strict=True)
    return plain
