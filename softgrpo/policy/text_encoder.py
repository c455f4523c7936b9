"""A pretrained language model as an encoder of texts: the mean of its last hidden states over a text's tokens.

Encoders and decoders work alike: padding is on the right, behind all that a decoder's tokens see, and no mean counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from softgrpo.config import TextConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.model_files import locate_weights, model_of_texts
from softgrpo.policy.pretrained import load_encoder, load_tokenizer

_REMEDY = "Name another model with --text.model_name"


@dataclass(frozen=True)
class TextEncoder:
    """A model that is ready to embed texts.

    Attributes:
        model: Computes hidden states, in float32.
        tokenizer: Of the model, with a padding token.
        config: Tokens of a text, and texts at a time.
        device: Where the model is.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: TextConfig
    device: torch.device

    @classmethod
    def load(cls, config: TextConfig, device: torch.device) -> TextEncoder:
        """Opens the model that the settings name.

        Raises:
            PolicyError: It cannot be loaded, or it reads and writes with different parts, as T5 does.
        """
        with model_of_texts():
            tokenizer = load_tokenizer(*locate_weights(config.model_name))
            model = load_encoder(config.model_name)
        if model.config.is_encoder_decoder:
            raise PolicyError(
                f"model '{config.model_name}', an encoder with a decoder behind it",
                "Texts are embedded by an encoder or by a decoder alone",
                _REMEDY,
                code="POLICY-028",
            )
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        model.to(device)  # type: ignore[arg-type]  # its wrapper hides that it is a method
        return cls(model, tokenizer, config, device)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the embeddings of n texts, at least one, (n, d), each of unit length, or zeros where a text has no token.

        Raises:
            PolicyError: The model computes something that is not finite.
        """
        found = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_length)["input_ids"]
        tokens = [row or [self.tokenizer.pad_token_id] for row in found]
        longest_first = sorted(range(len(texts)), key=lambda row: -len(tokens[row]))
        size = self.config.batch_size
        batches = [longest_first[first : first + size] for first in range(0, len(texts), size)]
        made = np.concatenate([self._means([tokens[row] for row in rows]).cpu().numpy() for rows in batches])
        vectors = made[np.argsort(longest_first)]
        vectors[[not row for row in found]] = 0.0
        if not np.isfinite(vectors).all():
            raise PolicyError(
                f"model '{self.config.model_name}', whose hidden states are not finite",
                "Texts are compared by numbers",
                _REMEDY,
                code="POLICY-029",
            )
        return vectors

    def _means(self, tokens: list[list[int]]) -> Tensor:
        """Returns the mean hidden states of texts, (B, d), of unit length."""
        batch = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(self.device)
        mask = batch["attention_mask"]
        hidden = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state  # (B, L, d)
        total = hidden.masked_fill(mask[..., None] == 0, 0.0).sum(1)
        return torch.nn.functional.normalize(total / mask.sum(1, keepdim=True), dim=1)
