"""Freezing the lower part of a language model: the embeddings and the first layers stay as they were pretrained.

Nothing below the lowest trained layer needs a gradient, so autograd records none of it, and no optimiser state is kept for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from softgrpo.algorithm.dropout import switch_dropout_off
from softgrpo.algorithm.frozen_states import layer_stacks
from softgrpo.errors import PolicyError
from softgrpo.policy.model_files import check_layer_count


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Returns the transformer layers of a model, from the bottom.

    Raises:
        PolicyError: It has no list of as many layers as its configuration says, or several (an encoder and a decoder).
    """
    stacks = layer_stacks(model)
    if len(stacks) != 1:
        raise PolicyError(
            f"a {type(model).__name__} with {len(stacks)} lists of {model.config.num_hidden_layers} layers",
            "policy.frozen_layers counts the layers of one stack",
            "Set policy.frozen_layers to 0, or choose a model with one stack of layers",
            code="POLICY-051",
        )
    return stacks[0]


def freeze_lower_layers(model: PreTrainedModel, count: int) -> None:
    """Freezes the first layers of a model, and all that they read: the embeddings, and what is shared with them.

    They have no dropout from then on, so they are a fixed function, which a trainer computes once for each prompt.

    Args:
        model: Before a new head, soft tokens or adapters are put on it.
        count: Layers from the bottom; 0 freezes nothing, the embeddings neither.

    Raises:
        PolicyError: See `find_layers`; or the model has fewer layers.
    """
    if count == 0:
        return
    layers = find_layers(model)
    check_layer_count(count, len(layers))
    for parameter in _parameters_behind(_output_of(model, layers[count - 1])):
        parameter.requires_grad_(False)
    layers[:count].requires_grad_(False)  # what a layer holds and this one prompt did not use
    for module in model.modules():
        if all(not value.requires_grad for value in module.parameters()) and any(True for _ in module.parameters()):
            switch_dropout_off(module)


def _output_of(model: PreTrainedModel, layer: nn.Module) -> Tensor:
    """Returns what a layer makes of a prompt of two tokens, with its graph."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    handle = layer.register_forward_hook(keep)
    ids = torch.ones(1, 2, dtype=torch.long, device=model.device)
    with torch.enable_grad():
        model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    handle.remove()
    return outputs[0]


def _parameters_behind(value: Tensor) -> Iterator[Tensor]:
    """Gives the parameters that a value was computed from: the leaves of its graph."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        waiting += [each for each, _ in node.next_functions]


def frozen_modules(model: nn.Module) -> str:
    """Returns a regular expression for the names of all modules with frozen weights of their own, "" where none has any."""
    names = (
        name
        for name, module in model.named_modules()
        if any(not value.requires_grad for value in module.parameters(recurse=False))
    )
    return "|".join(map(re.escape, names))
