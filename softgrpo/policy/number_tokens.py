"""The numbers of a window as soft tokens: a linear projection of each block of numbers to one embedding, among those of the prompt.

They stand behind the prompt's first token, which encoders read out and on which decoders rest their attention.
Legend: B prompts, L tokens, K soft tokens, F numbers, D components of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from softgrpo.errors import PolicyError
from softgrpo.policy.number_scale import NumberScale, Standardise
from softgrpo.policy.window_inputs import NUMBERS, WindowReader

TOKENS = "number_tokens"
"""Name of the module inside the language model."""
_SOFT = "soft_tokens_of_this_forward_pass"


def number_blocks(names: Sequence[str], recallers: Sequence[str]) -> list[list[int]]:
    """Returns the places of the numbers that share a token: those of each recaller, and all others."""
    own = [[place for place, name in enumerate(names) if name.startswith(f"{each}: ")] for each in recallers]
    rest = sorted(set(range(len(names))) - {place for places in own for place in places})
    return [places for places in (*own, rest) if places]


class NumberTokens(nn.Module, WindowReader):
    """Numbers (B, F) to soft tokens (B, K, D), about as large as the embeddings of words.

    Args:
        scale: Of the numbers.
        blocks: Places of the numbers behind each of the K tokens.
        embedding: Of the words.
    """

    size: Tensor

    def __init__(self, scale: NumberScale, blocks: Sequence[Sequence[int]], embedding: nn.Embedding) -> None:
        super().__init__()
        self.standardise = Standardise(scale)
        self._blocks = [list(places) for places in blocks]
        self.projections = nn.ModuleList(nn.Linear(len(places), embedding.embedding_dim) for places in blocks)
        # outside of the weights, which then learn at the rate of a head
        self.register_buffer("size", embedding.weight.detach().std())

    def forward(self) -> Tensor:
        """Returns the soft tokens of this forward pass, float32.

        Raises:
            PolicyError: There are no numbers, or another count than in training.
        """
        numbers = self.standardise(self.read(NUMBERS, len(self.standardise.mean)))
        pairs = zip(self.projections, self._blocks, strict=True)
        return self.size * torch.stack([projection(numbers[:, places]) for projection, places in pairs], dim=1)


def add_number_tokens(model: PreTrainedModel, scale: NumberScale, recallers: Sequence[str], max_length: int) -> None:
    """Puts a module that makes soft tokens into a language model, before adapters; `insert_number_tokens` uses it.

    Args:
        model: The language model.
        scale: Of the numbers.
        recallers: Their names begin the names of their numbers.
        max_length: Tokens per prompt.

    Raises:
        PolicyError: The prompt and the soft tokens are more than the model reads.
    """
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    blocks = number_blocks(scale.names, recallers)
    longest = getattr(model.config, "max_position_embeddings", None)
    if isinstance(longest, int) and longest < max_length + len(blocks):
        raise PolicyError(
            f"prompt.max_length = {max_length} with policy.numbers = tokens",
            f"the model reads at most {longest} tokens, and the numbers take {len(blocks)} of them",
            f"Lower --prompt.max_length to {longest - len(blocks)}",
            code="POLICY-035",
        )
    setattr(model, TOKENS, NumberTokens(scale, blocks, embedding))
    embedding.register_forward_hook(_replace)


def insert_number_tokens(model: nn.Module) -> None:
    """Lets a model read its soft tokens with every prompt; call behind `hand_over`.

    Args:
        model: The outermost module: the one that is called, by input_ids and attention_mask.
    """
    model.register_forward_pre_hook(_insert, with_kwargs=True)


def make_room(input_ids: Tensor, attention_mask: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Makes room for soft tokens behind the first token of each prompt, wherever the padding is.

    Args:
        input_ids: (B, L).
        attention_mask: (B, L), 1 for tokens and 0 for padding.
        count: K.

    Returns:
        Token ids and mask, (B, L + K), and the places of the soft tokens, (B, K). Their ids, those of the
        first token, are not looked up.
    """
    first = attention_mask.argmax(1, keepdim=True)  # (B, 1)
    old = torch.arange(input_ids.shape[1], device=input_ids.device)
    moved = old + count * (old > first)  # (B, L)
    ids = input_ids.gather(1, first).repeat(1, input_ids.shape[1] + count).scatter(1, moved, input_ids)
    mask = torch.ones_like(ids).to(attention_mask.dtype).scatter(1, moved, attention_mask)
    return ids, mask, first + 1 + torch.arange(count, device=input_ids.device)


def _insert(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    soft: Tensor = getattr(base, TOKENS)()
    ids, mask, places = make_room(kwargs["input_ids"], kwargs["attention_mask"], soft.shape[1])
    vars(base.get_input_embeddings())[_SOFT] = (soft, places)
    return args, {**kwargs, "input_ids": ids, "attention_mask": mask}


def _replace(embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Puts the soft tokens into the embeddings (B, L + K, D) of the tokens."""
    soft, places = vars(embedding).pop(_SOFT)
    replaced: Tensor = output.scatter(1, places[..., None].expand(-1, -1, output.shape[-1]), soft.to(output.dtype))
    return replaced
