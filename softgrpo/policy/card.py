"""The card beside the weights of a saved policy: what it is, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from softgrpo.errors import PolicyError

CARD = "policy.json"
Finite = Annotated[float, Field(allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class PolicyCard:
    """What a saved policy is, beside its weights.

    Attributes:
        model_name: Where the base weights came from.
        weights: What tells them from others, see `identify_weights`.
        recallers: The classes, in the order of the logits.
        max_length: Tokens per prompt in training.
        adapter: none or lora.
        prior: Log weights added to the logits, or None.
        reading_tau: Temperature that turns logits into weights at evaluation, chosen on validation windows.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    model_name: str
    weights: dict[str, str]
    recallers: tuple[str, ...]
    max_length: int
    adapter: str
    prior: tuple[Finite, ...] | None
    reading_tau: Above0 = 1.0


_CARDS = TypeAdapter(PolicyCard)
_AGAIN = "Name another policy, or train this one again"
LARGEST_CARD = 100_000


def load_card(folder: Path) -> PolicyCard:
    """Returns the card of a saved policy.

    Raises:
        PolicyError: The folder holds no policy of this project, or the card is damaged.
    """
    path = folder / CARD
    if not path.is_file():
        raise PolicyError(
            f"'{folder}' holds no {CARD}",
            "a saved policy has one",
            "Name a folder that save_policy wrote",
            code="POLICY-003",
        )
    if path.stat().st_size > LARGEST_CARD:
        raise PolicyError(
            f"'{path}' has {path.stat().st_size:,} bytes",
            f"A card has up to {LARGEST_CARD:,}",
            _AGAIN,
            code="POLICY-004",
        )
    try:
        card = _CARDS.validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        raise PolicyError(
            f"'{path}': {place} {wrong['msg']}", "It must be a whole card of a policy", _AGAIN, code="POLICY-005"
        ) from error
    if card.prior is not None and len(card.prior) != len(card.recallers):
        raise PolicyError(
            f"'{path}' with a prior of {len(card.prior)} for {len(card.recallers)} recallers",
            "A prior has one number for each recaller",
            _AGAIN,
            code="POLICY-006",
        )
    return card
