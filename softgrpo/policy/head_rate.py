"""How fast the head of a policy learns where nobody says so."""

from __future__ import annotations

from softgrpo.config import PolicyConfig

NUMBERS_LEARNING_RATE = 3e-3
"""Peak learning rate of a head that reads numbers, which is a small network of its own and learns as the gates' networks do."""


def head_rate(policy: PolicyConfig, chosen: float | None) -> float | None:
    """Returns the peak learning rate of the head; None where it is that of the rest.

    Args:
        policy: Says whether the head reads numbers: at the rate of a pretrained body it would not learn to.
        chosen: The setting `head_learning_rate` of the stage.
    """
    return NUMBERS_LEARNING_RATE if chosen is None and policy.numbers != "none" else chosen
