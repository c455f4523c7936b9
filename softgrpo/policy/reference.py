"""What the numbers and words of a new request are relative to, taken from a run once and stored in one file.

A window of the run and a request with the same history and lists get the same numbers and the same prompt.
Legend: F numbers, I items, M recallers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from softgrpo.common.records import LEARNT_FROM, Corpus, ListSource, Windows
from softgrpo.common.training_part import training_counts
from softgrpo.policy.blocks.pace import in_seconds
from softgrpo.policy.features import ListScale
from softgrpo.policy.numbers import WindowNumbers

_STRENGTH, _PEAK = "strength:", "peak:"


@dataclass(frozen=True)
class Reference:
    """What a run's policy windows and training part say about any request.

    Attributes:
        recallers: The M names, in pool order.
        scale: What strength and peak of a list are quantiles among.
        names: Of the F numbers, in order.
        cuts: (F, 4) the quintiles of each number among policy windows.
        popularity: (I,) int64 how often each item occurs in the recallers' training part.
        seconds: Whether the run's times are seconds since 1970.
    """

    recallers: tuple[str, ...]
    scale: ListScale
    names: tuple[str, ...]
    cuts: NDArray[np.float64]
    popularity: NDArray[np.int64]
    seconds: bool

    @classmethod
    def of(
        cls, corpus: Corpus, windows: Windows, lists: ListSource, numbers: WindowNumbers, k: int
    ) -> Reference:  # fmt: skip
        """Returns the reference of a run.

        Args:
            corpus: All interactions.
            windows: All windows.
            lists: Their candidate lists.
            numbers: Their numbers.
            k: Cut-off of the features, `fusion.k`.
        """
        return cls(
            recallers=lists.recallers,
            scale=ListScale.of(lists, windows.of(*LEARNT_FROM), k),
            names=numbers.names,
            cuts=numbers.cuts,
            popularity=training_counts(corpus, windows),
            seconds=in_seconds(corpus.time),
        )

    def save(self, path: Path) -> None:
        """Writes one safetensors file, names as its metadata."""
        tensors: dict[str, NDArray[np.generic]] = {"cuts": self.cuts, "popularity": self.popularity}
        for place, (strength, peak) in enumerate(zip(self.scale.strength, self.scale.peak, strict=True)):
            tensors |= {f"{_STRENGTH}{place}": strength, f"{_PEAK}{place}": peak}
        card = {"recallers": self.recallers, "names": self.names, "k": self.scale.k, "seconds": self.seconds}
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        save_file(contiguous, path, metadata={"card": json.dumps(card)})

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Reads what `save` wrote."""
        with safe_open(path, framework="numpy") as file:
            card = json.loads(file.metadata()["card"])
            places = range(len(card["recallers"]))
            strength = tuple(file.get_tensor(f"{_STRENGTH}{place}") for place in places)
            peak = tuple(file.get_tensor(f"{_PEAK}{place}") for place in places)
            return cls(
                recallers=tuple(card["recallers"]),
                scale=ListScale(strength, peak, card["k"]),
                names=tuple(card["names"]),
                cuts=file.get_tensor("cuts"),
                popularity=file.get_tensor("popularity"),
                seconds=card["seconds"],
            )
