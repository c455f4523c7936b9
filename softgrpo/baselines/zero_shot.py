"""Zero-shot prompting: how likely the untrained language model finds each recaller's name as the answer to the prompt.

Legend: N prompts, B prompts of a batch, L tokens, M recallers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from softgrpo.errors import PolicyError
from softgrpo.policy.model_files import locate_weights
from softgrpo.policy.pretrained import load_tokenizer
from softgrpo.reporting import ProgressBar


def can_generate(model_name: str) -> bool:
    """Returns whether a model is a decoder. Encoders, which fill masks, have no zero-shot row.

    Args:
        model_name: See `PolicyConfig.model_name`.
    """
    source, gguf = locate_weights(model_name)
    options = {"gguf_file": gguf} if gguf else {}
    kind: str = AutoConfig.from_pretrained(source, trust_remote_code=False, **options).model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def load_decoder(model_name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns a language model in float32 that writes, and its tokenizer, which pads on the left.

    Raises:
        PolicyError: It cannot be loaded, or is no decoder.
    """
    if not can_generate(model_name):
        raise PolicyError(
            f"model '{model_name}'",
            "only a decoder can answer without training",
            "Leave zero_shot out",
            code="POLICY-001",
        )
    source, gguf = locate_weights(model_name)
    options: dict[str, Any] = {"gguf_file": gguf} if gguf else {"use_safetensors": True}
    tokenizer = load_tokenizer(source, gguf)
    tokenizer.padding_side = "left"  # so that every prompt ends where its answer begins
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"model '{model_name}'", f"it cannot be loaded ({error})", "Correct --model_name", code="POLICY-002"
        ) from error
    assert isinstance(model, PreTrainedModel)
    model.eval()  # type: ignore[no-untyped-call]
    return model, tokenizer


def option_tokens(options: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Returns the tokens of each answer; without a chat template it goes on in the prompt's text, behind a space."""
    lead = " " if tokenizer.chat_template is None else ""
    return [list(tokenizer(f"{lead}{option}", add_special_tokens=False)["input_ids"]) for option in options]


def answer_likelihoods(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, options: list[list[int]]) -> Tensor:
    """Returns the mean log-likelihood per token of each answer behind each prompt, (B, M) float32.

    The prompts are read once; every answer goes on from what was computed.

    Args:
        model: A causal language model.
        input_ids: (B, L), padded on the left.
        attention_mask: (B, L).
        options: Tokens of the M answers, at least one each.
    """
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    common = {"use_cache": True}
    read = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, logits_to_keep=1, **common)
    first = read.logits[:, -1].float().log_softmax(-1)  # (B, vocabulary)
    likelihoods = []
    for option in options:
        total = first[:, option[0]]
        if len(option) > 1:
            tokens = torch.tensor(option, device=input_ids.device).expand(len(input_ids), -1)
            behind = positions[:, -1:] + torch.arange(1, len(option), device=input_ids.device)
            written = model(
                input_ids=tokens[:, :-1],
                attention_mask=nn.functional.pad(attention_mask, (0, len(option) - 1), value=1),
                position_ids=behind,
                past_key_values=copy.deepcopy(read.past_key_values),  # the model writes into what it gets
                **common,
            )
            following = written.logits.float().log_softmax(-1)
            total = total + following.gather(2, tokens[:, 1:, None])[..., 0].sum(1)
        likelihoods.append(total / len(option))
    return torch.stack(likelihoods, dim=1)


def zero_shot_weights(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    recallers: Sequence[str],
    batch_size: int,
    bf16: bool,
) -> Tensor:
    """Returns weights by an untrained language model: softmax over the likelihoods of the recallers' names, (N, M) float64.

    Args:
        model: A causal language model; where it is, there it computes.
        tokenizer: Its own, padding on the left.
        prompts: Token ids of the N prompts.
        recallers: The M names.
        batch_size: Prompts per forward pass.
        bf16: Compute in bfloat16.
    """
    options = option_tokens(recallers, tokenizer)
    device = model.device
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")  # prompts of similar length together
    weights = torch.empty(len(prompts), len(recallers), dtype=torch.float64)
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for rows in ProgressBar(batches, desc="zero-shot on test windows", unit="batch", mininterval=1.0):
            padded = tokenizer.pad({"input_ids": [list(prompts[row]) for row in rows]}, return_tensors="pt").to(device)
            scores = answer_likelihoods(model, padded["input_ids"], padded["attention_mask"], options)
            weights[rows] = scores.double().softmax(-1).cpu()
    return weights
