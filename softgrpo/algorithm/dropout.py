"""Dropout of any model, switched off."""

from __future__ import annotations

from torch import nn


def switch_dropout_off(model: nn.Module) -> None:
    """Makes a model the same function in training as otherwise.

    Some models have no module for a dropout but a rate, an attribute such as `attention_dropout` or `layerdrop`, which they hand to
    a function. Both become 0. The configuration stays as it is, so a stored model keeps the rates that it came with.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
