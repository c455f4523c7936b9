"""What the weights of a policy go with: rank correlations with the numbers of the windows.

Legend: W windows, M recallers, F numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.scratch import scratch
from softgrpo.evaluation.learnt import NEGLIGIBLE
from softgrpo.policy.blocks.record import HISTORY, RECORD

FIFTHS = 5


@dataclass(frozen=True)
class Group:
    """Some windows with similar values of one number.

    Attributes:
        low: Smallest value.
        high: Largest value.
        weights: (M,) mean weights.
    """

    low: float
    high: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Drivers:
    """What weights go with.

    Attributes:
        recallers: The M names.
        numbers: Names of the F numbers.
        correlation: (F, M) Spearman's rank correlation of each number with each recaller's weight; NaN where one does not vary.
        groups: Fifths of the windows by the number with the strongest correlation, and by the length of the history; by the name of
            the number. Without the latter where the length is no number of this run.
    """

    recallers: tuple[str, ...]
    numbers: tuple[str, ...]
    correlation: NDArray[np.float64]
    groups: Mapping[str, tuple[Group, ...]]

    def strongest(self, count: int) -> NDArray[np.int64]:
        """Returns the places of the numbers that go with some weight most, the strongest first."""
        return _by_strength(self.correlation)[:count]

    @property
    def sentence(self) -> str:
        """What is to be seen, in words."""
        row = int(self.strongest(1)[0])
        column = int(np.nanargmax(np.abs(self.correlation[row])))
        value = self.correlation[row, column]
        return (
            f"The weight of {self.recallers[column]} goes most with '{self.numbers[row]}' (rank correlation {value:+.2f}). "
            "A correlation is no proof that the number decides."
        )

    def as_record(self) -> dict[str, Any]:
        """Returns it as JSON-able data."""
        rows = [[None if np.isnan(value) else float(value) for value in row] for row in self.correlation]
        groups = {name: [vars(group) for group in fifths] for name, fifths in self.groups.items()}
        return {"recallers": self.recallers, "numbers": self.numbers, "correlation": rows, "groups": groups}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Drivers:
        """Reads what `as_record` returned."""
        groups = {
            name: tuple(Group(group["low"], group["high"], tuple(group["weights"])) for group in fifths)
            for name, fifths in record["groups"].items()
        }
        correlation = np.array(record["correlation"], dtype=np.float64)
        return cls(tuple(record["recallers"]), tuple(record["numbers"]), correlation, groups)


def drivers_of(
    recallers: tuple[str, ...], weights: NDArray[np.float64], numbers: NDArray[np.float64], names: tuple[str, ...]
) -> Drivers | None:
    """Correlates the weights of a policy with what is known of the windows.

    Args:
        recallers: The M names.
        weights: (W, M).
        numbers: (W, F), see `softgrpo.policy.numbers.WindowNumbers`.
        names: What people call each of the F numbers.

    Returns:
        None where the weights do not differ between windows, or no number does.
    """
    moving = np.ptp(weights, axis=0) > NEGLIGIBLE
    ranks = _standard_ranks(numbers), _standard_ranks(np.where(moving, weights, 0.0))
    correlation = ranks[0].T @ ranks[1] / len(weights)  # NaN where a column does not vary
    if np.isnan(correlation).all():
        return None
    shown = dict.fromkeys([names[_by_strength(correlation)[0]], HISTORY])
    groups = {name: _fifths(name, numbers[:, names.index(name)], weights) for name in shown if name in names}
    return Drivers(recallers, names, correlation, groups)


def _fifths(name: str, number: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[Group, ...]:
    """Returns the range of a number and the mean weights in fifths of the windows; fewer where many values are equal."""
    values = np.expm1(number) if name in (HISTORY, RECORD) else number
    fifth = np.nan_to_num(pd.qcut(values, FIFTHS, labels=False, duplicates="drop"))
    rows = [fifth == place for place in np.unique(fifth)]
    return tuple(
        Group(float(values[row].min()), float(values[row].max()), tuple(weights[row].mean(0).tolist())) for row in rows
    )


def _by_strength(correlation: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the places of the rows (F,), that with the largest absolute value first, rows without one last."""
    strength = np.abs(np.nan_to_num(correlation)).max(1)
    return np.argsort(-strength, kind="stable")


def _standard_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the ranks of each column, equal values with their mean rank, with mean 0 and standard deviation 1; else NaN."""
    scaled = scratch(values.shape[::-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        for place, column in enumerate(values.T):
            ranks = pd.Series(column).rank().to_numpy()
            scaled[place] = (ranks - ranks.mean()) / ranks.std()
    return scaled.T
