"""Which method validation windows choose, of all rows that can be used on new windows. It needs no torch.

Oracles look at the answers, rows under another merge than the run's only compare merges, and the untrained language model is
asked about test windows alone: none of these is a candidate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeGuard

from softgrpo.common.artifacts import CHOSEN
from softgrpo.errors import ConfigError, DataError

BEST = "best"
"""What people call the method that validation windows chose, where they name a row."""
EQUAL = 1e-6
"""Differences in NDCG that decide nothing: policies are judged with other roundings than the rest."""


@dataclass(frozen=True)
class UsableMethod:
    """A row of the table that can be used on new windows.

    Attributes:
        key: Of the row, see `softgrpo.evaluation.rows.Method`.
        label: What people read.
        kind: Of the row.
        valid_ndcg: Mean NDCG@`fusion.k` on the validation windows that decide; None where it is not known, so that the row is no
            candidate.
        weights: (M,) of a row with the same weights for everybody; None of all others.
    """

    key: str
    label: str
    kind: str
    valid_ndcg: float | None
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Chosen:
    """The choice.

    Attributes:
        k: Cut-off of the NDCG.
        windows: Validation windows that decide, the same for all.
        best: Key of the method with the highest NDCG on them; of equal ones (to 1e-6) the earliest, which is the simplest.
        methods: All that can be used, in the order of the table.
    """

    k: int
    windows: int
    best: str
    methods: tuple[UsableMethod, ...]

    @classmethod
    def of(cls, k: int, windows: int, methods: Sequence[UsableMethod]) -> Self:
        """Chooses the best.

        Raises:
            DataError: No method has an NDCG.
        """
        known = {each.key: ndcg for each in methods if _is_number(ndcg := each.valid_ndcg)}
        if not known:
            raise DataError(
                f"{len(methods)} methods without NDCG on validation windows",
                "validation windows choose among methods that were evaluated on them",
                "Repeat the stage gates",
                code="DATA-029",
            )
        highest = max(known.values())
        best = next(key for key, value in known.items() if value >= highest - EQUAL)
        told = (each if each.key in known else replace(each, valid_ndcg=None) for each in methods)
        return cls(k, windows, best, tuple(told))

    def method(self, key: str) -> UsableMethod:
        """Returns a method by its key, or the chosen one by `best`.

        Raises:
            ConfigError: There is no such method.
        """
        wanted = self.best if key == BEST else key
        known = {each.key: each for each in self.methods}
        if wanted not in known:
            raise ConfigError(
                f"method '{key}'",
                f"It must be {BEST} or a row of the run that can be used on new windows: {', '.join(known)}",
                f"Name one of them, or leave it out for {BEST}",
                code="CONFIG-088",
            )
        return known[wanted]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Labels of the methods that were no candidates, because their NDCG is not known."""
        return tuple(each.label for each in self.methods if each.valid_ndcg is None)

    def sentence(self, compared: Sequence[str]) -> str:
        """Returns the choice in words.

        Args:
            compared: Keys of methods whose NDCG is told too.
        """
        best = self.method(BEST)
        assert best.valid_ndcg is not None
        others = [each for each in self.methods if each.key in compared and each is not best]
        told = [f"{each.label} {each.valid_ndcg:.4f}" for each in others if each.valid_ndcg is not None]
        beside = f" ({', '.join(told)})" if told else ""
        left_out = f"; not evaluated there: {', '.join(self.unknown)}" if self.unknown else ""
        return (
            f"Of {len(self.methods)} methods, validation windows choose this one: {best.label}, "
            f"NDCG@{self.k} {best.valid_ndcg:.4f} on "
            f"{self.windows:,} windows{beside}{left_out}."
        )

    @classmethod
    def from_record(cls, stored: dict[str, Any]) -> Self:
        """Returns what `dataclasses.asdict` made a record of."""
        methods = (
            UsableMethod(**{**each, "weights": each["weights"] and tuple(each["weights"])})
            for each in stored["methods"]
        )
        return cls(**{**stored, "methods": tuple(methods)})


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def write_chosen(folder: Path, chosen: Chosen) -> None:
    """Writes the choice into the folder of a stage."""
    (folder / CHOSEN).write_text(json.dumps(asdict(chosen), indent=1), encoding="utf-8")


def read_chosen(folder: Path) -> Chosen | None:
    """Reads what `write_chosen` wrote; None where an earlier version filled the folder."""
    path = folder / CHOSEN
    return Chosen.from_record(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
