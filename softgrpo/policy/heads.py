"""Heads of a policy: a fixed prior on the logits, and a small network that reads a window's numbers beside the hidden state.

Legend: B prompts, L tokens, H hidden size, F numbers, M recallers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softgrpo.policy.number_scale import NumberScale, Standardise
from softgrpo.policy.window_inputs import LOG_PRIOR, NUMBERS, WindowReader

UNITS = 32
"""Hidden units of the network that reads numbers; those of the gates (`softgrpo.baselines.networks`)."""


class PriorHead(nn.Module, WindowReader):
    """A linear head with a fixed prior: `z = W h + b + log w`.

    Its parameter names differ from those of a plain head, so that a checkpoint opened without the prior cannot pass unnoticed.

    Args:
        linear: The head; it starts at zero.
        prior: (M,) log weights; None takes those of each window, `log_prior` (B, M) among the model's inputs.
    """

    prior: Tensor | None

    def __init__(self, linear: nn.Linear, prior: Tensor | None) -> None:
        super().__init__()
        nn.init.zeros_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        self.linear = linear
        self.register_buffer("prior", None if prior is None else prior.float())

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits (..., M) for hidden states (..., H) of any precision.

        Raises:
            PolicyError: A window input that the head reads is missing or has another width.
        """
        # in float32 also under autocast: bfloat16 would round the prior, and training would start beside the static mixture
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.learnt(hidden.float()) + self._log_prior(hidden)
        return logits

    def _log_prior(self, hidden: Tensor) -> Tensor:
        if self.prior is not None:
            return self.prior
        given = self.read(LOG_PRIOR, self.linear.out_features).float()
        return given if hidden.ndim == 2 else given[:, None]

    def learnt(self, hidden: Tensor) -> Tensor:
        """Returns what is added to the prior, (..., M); 0 before any training."""
        logits: Tensor = self.linear(hidden)
        return logits


class UnitHead(PriorHead):
    """A head with a prior on hidden states of length 1: `z = W u + b + log w` with `u = LN(h) / sqrt(H)`.

    So one learning rate suits the head whatever the model's own scale, and new parts of the model beside it.
    """

    @staticmethod
    def unit(hidden: Tensor) -> Tensor:
        """Returns u, (..., H)."""
        size = hidden.shape[-1]
        unit: Tensor = nn.functional.layer_norm(hidden, (size,)) / size**0.5
        return unit

    def learnt(self, hidden: Tensor) -> Tensor:
        """Returns what is added to the prior, (..., M); 0 before any training."""
        return super().learnt(self.unit(hidden))


class NumbersHead(UnitHead):
    """A head on the hidden state and the standardised numbers x: `z = W u + V tanh(A x + B u + a) + b + log w`.

    W, b, V and B start at zero. At the start the logits are the prior, and the hidden units know the numbers alone, as those of
    the gates do; what the text says joins as it is learnt.

    Args:
        linear: W and b; it starts at zero.
        prior: See `PriorHead`.
        scale: Of the numbers.
    """

    def __init__(self, linear: nn.Linear, prior: Tensor | None, scale: NumberScale) -> None:
        super().__init__(linear, prior)
        self.standardise = Standardise(scale)
        self.numbers = nn.Linear(len(scale.names), UNITS)
        self.text = nn.Linear(linear.in_features, UNITS, bias=False)
        self.output = nn.Linear(UNITS, linear.out_features, bias=linear.bias is None)
        biases = (bias for bias in (self.output.bias,) if bias is not None)
        for zero in (self.text.weight, self.output.weight, *biases):
            nn.init.zeros_(zero)

    def learnt(self, hidden: Tensor) -> Tensor:
        """Returns what is added to the prior, (B, M) or (B, L, M) for hidden states (B, H) or (B, L, H)."""
        numbers = self.numbers(self.standardise(self.read(NUMBERS, self.numbers.in_features)))  # (B, units)
        read = numbers if hidden.ndim == 2 else numbers[:, None]
        units = torch.tanh(read + self.text(self.unit(hidden)))
        logits: Tensor = super().learnt(hidden) + self.output(units)
        return logits
