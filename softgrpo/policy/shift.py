"""How far the numbers of validation and test windows are from those of the policy windows that everything is learnt from.

Legend: W windows, F numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from softgrpo.common.records import LEARNT_FROM, Part, Windows
from softgrpo.policy.numbers import WindowNumbers

LARGE_SHIFT = 0.5
"""Standard deviations from which a shift is warned about."""
_CONSTANT = 1e-9


@dataclass(frozen=True)
class InputShift:
    """The shift of one number: the difference between two means, in standard deviations over policy windows.

    A number that does not vary over policy windows has shift 0: what learns from it standardises it to 0 everywhere.

    Attributes:
        name: What people call the number.
        valid: Mean over validation windows less the mean over policy windows.
        test: The same of test windows. It is told and decides nothing.
    """

    name: str
    valid: float
    test: float

    @property
    def largest(self) -> float:
        """The larger of the two without its sign."""
        return max(abs(self.valid), abs(self.test))

    @property
    def is_large(self) -> bool:
        """Whether it is warned about."""
        return self.largest > LARGE_SHIFT


def input_shifts(numbers: WindowNumbers, windows: Windows) -> tuple[InputShift, ...]:
    """Returns the shift of every number, in the order of the numbers.

    Args:
        numbers: Of W windows.
        windows: The windows, some of every part.
    """
    parts = (LEARNT_FROM, (Part.VALID,), (Part.TEST,))
    learnt, valid, test = (numbers.values[windows.of(*part)] for part in parts)
    mean, spread = learnt.mean(0), learnt.std(0)
    shifts = []
    for place, name in enumerate(numbers.names):
        unit = float(spread[place])
        off = [float(part[:, place].mean() - mean[place]) / unit if unit > _CONSTANT else 0.0 for part in (valid, test)]
        shifts.append(InputShift(name, *off))
    return tuple(shifts)


def save_shifts(path: Path, shifts: Iterable[InputShift]) -> None:
    """Writes shifts as a table, the largest first."""
    pd.DataFrame(map(asdict, largest_first(shifts))).to_csv(path, index=False)


def load_shifts(path: Path) -> tuple[InputShift, ...]:
    """Reads what `save_shifts` wrote, the largest first."""
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    return tuple(
        InputShift(name, float(valid), float(test))
        for name, valid, test in zip(table["name"], table["valid"], table["test"], strict=True)
    )


def largest_first(shifts: Iterable[InputShift]) -> tuple[InputShift, ...]:
    """Returns shifts by their size, the largest first; equal ones keep their order."""
    return tuple(sorted(shifts, key=lambda shift: -shift.largest))
