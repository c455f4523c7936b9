"""A policy without its wrapper: prior and reading temperature folded into a linear head, for transformers alone.

The wrapped policy gives `softmax((W h + b + log w) / t)`. With `W' = W / t` and `b' = (b + log w) / t` the plain one gives
`softmax(W' h + b')`, which is the same. Legend: h hidden state, log w prior, t reading temperature.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from softgrpo.errors import PolicyError
from softgrpo.policy.heads import PriorHead
from softgrpo.policy.model import Policy, find_head, merge_adapters

_SERVE = "Use the policy with its wrapper (softgrpo.load_policy), or its ONNX file"


def why_not_plain(policy: Policy) -> str:
    """Says why a policy cannot be a plain text classifier; "" where it can.

    A decoder's head has no bias, so only a prior that is the same for all recallers fits in: softmax ignores it.
    """
    card = policy.card
    if card.reads_numbers != "none":
        return f"it reads {len(card.numbers)} numbers of each window beside its prompt (policy.numbers = {card.reads_numbers})"
    if card.prior_per_window:
        return "it starts at a gate, whose weights differ from window to window (policy.prior = gate)"
    uneven = card.prior is not None and max(card.prior) - min(card.prior) > 0
    if uneven and _linear(policy.model, card.recallers).bias is None:
        return "its head has no bias that could hold the prior, as those of decoders have none"
    return ""


def as_plain(policy: Policy) -> Policy:
    """Returns a copy of a policy that plain transformers open: the same weights from `softmax(logits)`, no prior, temperature 1.

    Adapters are merged into the weights.

    Raises:
        PolicyError: It cannot be a plain text classifier, see `why_not_plain`.
    """
    if reason := why_not_plain(policy):
        raise PolicyError(
            f"a policy that cannot be a plain text classifier: {reason}",
            "a plain text classifier reads a prompt alone, and its prior is the bias of its head",
            f"{_SERVE}; or train one with --policy.prior none --policy.numbers none",
            code="POLICY-047",
        )
    merged = merge_adapters(policy)
    assert isinstance(merged.model, PreTrainedModel)
    model = copy.deepcopy(merged.model)
    linear = _linear(model, policy.card.recallers)
    with torch.no_grad():
        prior = policy.card.prior
        if prior is not None and linear.bias is not None:
            linear.bias.add_(torch.tensor(prior))
        for value in (linear.weight, linear.bias):
            if value is not None:
                value.div_(policy.card.reading_tau)
    _unwrap(model)
    model.config.problem_type = "single_label_classification"  # the pipeline text-classification then applies softmax
    card = replace(policy.card, adapter="none", prior=None, reading_tau=1.0)
    return Policy(model.eval(), policy.tokenizer, card)  # type: ignore[no-untyped-call]


def _linear(model: nn.Module, recallers: tuple[str, ...]) -> nn.Linear:
    """Returns the linear layer of the head."""
    linear = model.get_submodule(find_head(model, len(recallers)))
    assert isinstance(linear, nn.Linear)
    return linear


def _unwrap(model: nn.Module) -> None:
    """Puts the linear layer of a wrapped head in the place of the head."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PriorHead):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.linear)
