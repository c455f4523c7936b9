"""The card beside the weights of a saved policy: what it is, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

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
        prior_per_window: Whether the log weights of each window are added instead, an input of the model.
        reading_tau: Temperature that turns logits into weights at evaluation, chosen on validation windows.
        reads_numbers: How the model reads the numbers of a window, see `PolicyConfig.numbers`.
        numbers: Names of the numbers that it reads, in their order; empty where it reads none.
        frozen_layers: Layers from the bottom that were not trained, with the embeddings.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    model_name: str
    weights: dict[str, str]
    recallers: tuple[str, ...]
    max_length: int
    adapter: str
    prior: tuple[Finite, ...] | None
    reading_tau: Above0 = 1.0
    prior_per_window: bool = False
    reads_numbers: Literal["none", "head", "tokens"] = "none"
    numbers: tuple[str, ...] = ()
    frozen_layers: Annotated[int, Field(ge=0)] = 0


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
    if (card.reads_numbers == "none") != (not card.numbers):
        raise PolicyError(
            f"'{path}' with reads_numbers = {card.reads_numbers} and the names of {len(card.numbers)} numbers",
            "A policy names the numbers that it reads, and no others",
            _AGAIN,
            code="POLICY-032",
        )
    return card


def check_numbers(card: PolicyCard, given: tuple[str, ...]) -> None:
    """Checks that a policy finds the numbers that it was trained on.

    Args:
        card: Of the policy; one that reads no numbers takes any.
        given: Names of the numbers that there are, in their order.

    Raises:
        PolicyError: They are others, or in another order.
    """
    if card.reads_numbers == "none" or given == card.numbers:
        return
    missing, further = (
        [name for name in one if name not in other] for one, other in ((card.numbers, given), (given, card.numbers))
    )
    differences = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {', '.join(further)}"] * bool(further)
    raise PolicyError(
        f"numbers {' and '.join(differences) or 'in another order'}",
        f"the policy was trained on these {len(card.numbers)} numbers: {', '.join(card.numbers)}",
        "Set the same features.* (and text.*) as in its training, or train a policy on these numbers",
        code="POLICY-034",
    )
