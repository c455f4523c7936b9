"""The numbers of all windows: the blocks that are on, side by side. Gates read them, prompts tell some, reports name them.

Legend: W windows, F numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.mapped import open_mapped, write_header
from softgrpo.config import BlockName, FeaturesConfig
from softgrpo.policy.blocks.agreement import AGREEMENT
from softgrpo.policy.blocks.base import BASE
from softgrpo.policy.blocks.block import Block, Known, of_recaller
from softgrpo.policy.blocks.content import CONTENT
from softgrpo.policy.blocks.pace import PACE
from softgrpo.policy.blocks.popularity import POPULARITY
from softgrpo.policy.blocks.record import RECORD_BLOCK
from softgrpo.policy.blocks.shape import SHAPE
from softgrpo.policy.blocks.user_vector import USER_VECTOR

BLOCKS: Mapping[BlockName, Block] = {
    "content": CONTENT,
    "shape": SHAPE,
    "agreement": AGREEMENT,
    "popularity": POPULARITY,
    "pace": PACE,
    "user_vector": USER_VECTOR,
}
"""Every block that can be switched."""
LEVELS = 5
"""How many levels a number has in words."""


@dataclass(frozen=True)
class WindowNumbers:
    """Numbers of W windows.

    Attributes:
        names: What people call each, F of them; those of a recaller begin with its name and a colon.
        values: (W, F) float64 without NaN: 0 where a number does not exist.
        cuts: (F, 4) the quintiles of each number among policy windows.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    cuts: NDArray[np.float64]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def level(self, window: int, name: str) -> int | None:
        """Returns which fifth of the policy windows' values a window's number is in, 0 to 4.

        None where there is no such number, or more than half of the policy windows have the same value.
        """
        place = self._places.get(name)
        if place is None or self.cuts[place, 0] == self.cuts[place, -1]:
            return None
        return int(np.searchsorted(self.cuts[place], self.values[window, place], "right"))


def blocks_on(config: FeaturesConfig, known: Known) -> tuple[Block, ...]:
    """Returns the blocks of numbers that there are, the basic one first.

    Args:
        config: Which blocks are on; `record` is resolved, see `ExperimentConfig.told_features`.
        known: What there is to read.
    """
    chosen = (BLOCKS[name] for name in config.names)
    record = () if config.record == "off" else (RECORD_BLOCK,)
    return (BASE, *record, *(block for block in chosen if block.exists(known)))


def name_and_compute(known: Known, config: FeaturesConfig) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Returns the names (F,) and the values (W, F) of the numbers of some windows. Each window's follow from that window alone."""
    names: list[str] = []
    columns: list[NDArray[np.float64]] = []
    for block in blocks_on(config, known):
        for name, values in block.compute(known).items():
            names += [of_recaller(each, name) for each in known.lists.recallers] if values.ndim == 2 else [name]
            columns.append(np.nan_to_num(values.reshape(len(values), -1).astype(np.float64)))
    return tuple(names), np.concatenate(columns, axis=1)


def write_numbers(
    path: Path, parts: Iterable[tuple[Sequence[str], NDArray[np.float64]]], policy: NDArray[np.int64], count: int
) -> WindowNumbers:
    """Stores the numbers of all windows, some at a time, and returns what `load_numbers` does.

    Args:
        path: The file.
        parts: What `name_and_compute` gives of the windows, one part behind the other.
        policy: Places of the policy windows, which the levels are made from.
        count: W.
    """
    with path.open("wb") as file:
        places: dict[str, int] = {}
        for names, values in parts:
            if not places:
                shapes = {"values": (count, len(names)), "cuts": (len(names), LEVELS - 1)}
                places = write_header(file, shapes, {"names": json.dumps(names)})
                file.seek(places["values"])
            file.write(np.ascontiguousarray(values).tobytes())
    numbers = load_numbers(path)
    cuts = quintiles(numbers.values, policy)
    with path.open("r+b") as file:
        file.seek(places["cuts"])
        file.write(np.ascontiguousarray(cuts).tobytes())
    return WindowNumbers(numbers.names, numbers.values, cuts)


def quintiles(values: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the four values between the fifths of each column (W, F) in some rows, as (F, 4)."""
    shares = np.arange(1, LEVELS) / LEVELS
    return np.stack([np.quantile(column[rows], shares) for column in values.T])


def load_numbers(path: Path) -> WindowNumbers:
    """Opens what `write_numbers` wrote: the values are mapped and not read."""
    tensors, metadata = open_mapped(path)
    return WindowNumbers(tuple(json.loads(metadata["names"])), tensors["values"], tensors["cuts"])
