"""Heads of a policy: a fixed prior on the logits, and a small network that reads a window's numbers beside the hidden state.

Legend: B prompts, L tokens, H hidden size, F numbers, M recallers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softgrpo.errors import PolicyError
from softgrpo.policy.number_scale import NumberScale, Standardise

NUMBERS = "numbers"
UNITS = 32
"""Hidden units of the network that reads numbers; those of the gates (`softgrpo.baselines.networks`)."""


class PriorHead(nn.Module):
    """A linear head with a fixed prior: `z = W h + b + log w_static`.

    Its parameter names differ from those of a plain head, so that a checkpoint opened without the prior cannot pass unnoticed.

    Args:
        linear: The head; it starts at zero.
        prior: (M,) log weights.
    """

    prior: Tensor

    def __init__(self, linear: nn.Linear, prior: Tensor) -> None:
        super().__init__()
        nn.init.zeros_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        self.linear = linear
        self.register_buffer("prior", prior.float())

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits (..., M) for hidden states (..., H) of any precision."""
        # in float32 also under autocast: bfloat16 would round the prior, and training would start beside the static mixture
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.linear(hidden.float()) + self.prior
        return logits


class WindowInputs(nn.Module):
    """Base of modules inside a language model that read a window's numbers, which its own layers do not pass on.

    `read_window_inputs` lets the model's forward pass hand them over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: Tensor | None = None

    def numbers_of(self, expected: int) -> Tensor:
        """Returns the numbers (B, F) of this forward pass.

        Raises:
            PolicyError: There are none, or another count than `expected`.
        """
        rule = f"this policy reads {expected} numbers of each window beside its prompt"
        remedy = f"Pass numbers (B, {expected}) to the model: a column '{NUMBERS}' of the rows, see PolicyCard.numbers"
        if self.given is None:
            raise PolicyError("a batch without numbers", rule, remedy, code="POLICY-030")
        if self.given.ndim != 2 or self.given.shape[1] != expected:
            raise PolicyError(f"numbers of shape {tuple(self.given.shape)}", rule, remedy, code="POLICY-031")
        return self.given


class NumbersHead(WindowInputs):
    """A head on the hidden state h and the standardised numbers x: `z = W u + V tanh(A x + B u + a) + b + prior`.

    Here `u = LN(h) / sqrt(H)`: hidden states of every model have length 1, so that one learning rate suits all of the head. W, b,
    V and B start at zero. At the start the logits are the prior, and the hidden units know the numbers alone, as those of the
    gates do; what the text says joins as it is learnt.

    Args:
        linear: W and b; it starts at zero.
        prior: (M,) log weights.
        scale: Of the numbers.
    """

    prior: Tensor

    def __init__(self, linear: nn.Linear, prior: Tensor, scale: NumberScale) -> None:
        super().__init__()
        self.linear = linear
        self.standardise = Standardise(scale)
        self.numbers = nn.Linear(len(scale.names), UNITS)
        self.text = nn.Linear(linear.in_features, UNITS, bias=False)
        self.output = nn.Linear(UNITS, linear.out_features, bias=linear.bias is None)
        biases = (linear.bias, self.output.bias)
        for zero in (
            linear.weight,
            self.text.weight,
            self.output.weight,
            *(bias for bias in biases if bias is not None),
        ):
            nn.init.zeros_(zero)
        self.register_buffer("prior", prior.float())

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits (B, M) or (B, L, M) for hidden states (B, H) or (B, L, H) of any precision.

        Raises:
            PolicyError: There are no numbers, or another count than this head reads.
        """
        numbers = self.numbers_of(self.numbers.in_features)
        with torch.autocast(hidden.device.type, enabled=False):
            size = hidden.shape[-1]
            unit = nn.functional.layer_norm(hidden.float(), (size,)) / size**0.5
            read = self.numbers(self.standardise(numbers))
            units = torch.tanh((read if hidden.ndim == 2 else read[:, None]) + self.text(unit))
            logits: Tensor = self.linear(unit) + self.output(units) + self.prior
        return logits


def read_window_inputs(model: nn.Module) -> None:
    """Lets a model's forward pass take `numbers` (B, F) beside the tokens; the modules in it that read them get them.

    Args:
        model: The outermost module: the one that is called.
    """

    def hand_over(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        _give(module, kwargs.pop(NUMBERS, None))
        return args, kwargs

    def forget(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        _give(module, None)

    model.register_forward_pre_hook(hand_over, with_kwargs=True)
    model.register_forward_hook(forget, always_call=True)


def _give(model: nn.Module, numbers: Tensor | None) -> None:
    for module in model.modules():
        if isinstance(module, WindowInputs):
            module.given = numbers
