"""What a policy reads of a window beside its prompt, past the layers of the language model that do not know of it.

Legend: B prompts, F numbers, M recallers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from softgrpo.errors import PolicyError

NUMBERS = "numbers"
"""Name of the numbers (B, F) among the inputs of a policy's model."""
LOG_PRIOR = "log_prior"
"""Name of the log of the weights (B, M) that a policy starts from."""
WINDOW_INPUTS = (NUMBERS, LOG_PRIOR)


class WindowReader:
    """Mixin of modules inside a language model that read window inputs; `hand_over` lets the model give them."""

    given: Mapping[str, Tensor] = MappingProxyType({})
    """The window inputs of this forward pass."""

    def read(self, name: str, width: int) -> Tensor:
        """Returns one of the window inputs of this forward pass, (B, width).

        Raises:
            PolicyError: It is not there, or has another width.
        """
        rule = f"this policy reads {name} (B, {width}) of each window beside its prompt"
        remedy = f"Pass them to the model: a column '{name}' of the rows"
        value = self.given.get(name)
        if value is None:
            raise PolicyError(f"a batch without {name}", rule, remedy, code="POLICY-030")
        if value.ndim != 2 or value.shape[1] != width:
            raise PolicyError(f"{name} of shape {tuple(value.shape)}", rule, remedy, code="POLICY-031")
        return value


def hand_over(model: nn.Module) -> None:
    """Lets a model's forward pass take window inputs by name beside the tokens; the readers inside it get them.

    Args:
        model: The outermost module: the one that is called.
    """
    model.register_forward_pre_hook(_take, with_kwargs=True)


def _take(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    given = {name: kwargs.pop(name) for name in WINDOW_INPUTS if name in kwargs}
    for module in model.modules():
        if isinstance(module, WindowReader):
            module.given = given
    return args, kwargs
