"""A policy's model for asking it on a CPU: its large linear layers through oneDNN.

In float32 torch multiplies matrices by MKL, which is slow on AMD's processors; oneDNN, which is in the same package, is fast on all
of this kind. The numbers differ in the last digit only. Legend: I numbers go into a layer, O come out.
"""

from __future__ import annotations

import platform

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from softgrpo.policy.window_inputs import WindowReader

BATCH = 32
"""Prompts per forward pass, at most: what one layer makes of more does not stay in the processor's cache."""
LEAST_WEIGHTS = 2**14
"""Of a layer; smaller ones gain nothing."""
PROCESSORS = ("x86_64", "AMD64")


class OneDnnLinear(nn.Module):
    """A linear layer that cannot be trained.

    Args:
        linear: With weights (O, I) in float32 on a CPU; they are copied into the order that oneDNN wants.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = linear.weight.detach().to_mkldnn()
        self._bias = None if linear.bias is None else linear.bias.detach().to_mkldnn()

    def forward(self, values: Tensor) -> Tensor:
        """Returns (..., O) for values (..., I) in float32."""
        output: Tensor = torch.ops.aten.mkldnn_linear(values.to_mkldnn(), self._weight, self._bias).to_dense()
        return output


def for_asking(model: nn.Module) -> nn.Module:
    """Puts the linear layers of a model on a CPU into a form that is faster and cannot be trained; other models stay as they are.

    Args:
        model: In evaluation mode. It is changed.

    Returns:
        The same model.
    """
    usable = torch.backends.mkldnn.is_available() and platform.machine() in PROCESSORS  # type: ignore[no-untyped-call]
    if usable and all(value.device.type == "cpu" and value.dtype == torch.float32 for value in model.parameters()):
        _replace(model)
    return model


def _replace(module: nn.Module) -> None:
    """Replaces the large linear layers inside a module, but for those of heads, soft tokens and adapters, which need more."""
    for name, child in module.named_children():
        if isinstance(child, WindowReader | BaseTunerLayer):
            continue
        if type(child) is nn.Linear and child.weight.numel() >= LEAST_WEIGHTS:
            setattr(module, name, OneDnnLinear(child))
        else:
            _replace(child)
