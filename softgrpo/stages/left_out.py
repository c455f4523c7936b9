"""What is said of policy windows that a training leaves out."""

from __future__ import annotations

from dataclasses import dataclass

FEW_WINDOWS, SMALL_SHARE = 100, 0.2


@dataclass(frozen=True)
class LeftOut:
    """What to say of policy windows that a training leaves out."""

    stage: str
    kept: str
    rule: str
    others: str
    remedy: str
    switch: str


_REMEDY = "Better recallers, a larger recall.depth or fusion.k"
_REMEDY_FLAT = "Better recallers, a larger recall.depth, fusion.k or grpo.reward_k"
UNHIT = LeftOut(
    "SFT",
    "with a hit of any recaller",
    "SFT learns from windows in which a recaller finds a target",
    "in the others no recaller finds a target",
    _REMEDY,
    "--labels.drop_unhit",
)
FLAT = LeftOut(
    "SofT-GRPO",
    "whose reward depends on the weights",
    "SofT-GRPO learns from windows in which some weights are better than others",
    "in the others all weights earn the same",
    _REMEDY_FLAT,
    "--grpo.drop_flat",
)
