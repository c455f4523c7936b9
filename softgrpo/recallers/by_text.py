"""The recaller `Text`: the unseen items whose texts are closest to those of the history's latest items.

Legend: I items, B windows of a batch, n items of a query, d numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from softgrpo.common.embeddings import create_embeddings, mean_of_latest, unit_rows

NO_ITEM = -1
MOST_SCORES = 2**24
"""Scores of a batch that are held at a time: 64 MiB."""
_ROWS = 4096
"""Items that are adapted at a time."""
_ADAPTER = "adapter.safetensors"

Floats = NDArray[np.float32]


def windows_at_a_time(batch_size: int, num_items: int) -> int:
    """Returns how many windows are scored at a time, so that memory stays small however many items there are."""
    return max(1, min(batch_size, MOST_SCORES // num_items))


@dataclass(frozen=True)
class Adapter:
    """What was learnt on frozen embeddings: a vector v becomes `v + v @ map`, scaled to length 1.

    Attributes:
        query: (d, d) float32, the map of queries.
        item: (d, d) float32, the map of items.
    """

    query: Floats
    item: Floats

    def save(self, folder: Path) -> None:
        """Writes the maps into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"query": self.query, "item": self.item}, folder / _ADAPTER)

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Reads what `save` wrote."""
        return cls(**load_file(folder / _ADAPTER))


@dataclass(frozen=True)
class TextRecaller:
    """Scores are cosines between a query, made of the history's latest items, and every item.

    Attributes:
        embeddings: (I, d) float32 rows of unit length, zeros where an item has no text.
        history_items: The latest items of the history that have a text, at most this many (n), make the query.
        half_life: Items after which a weight in the query has halved, counted from the latest of these items back.
        query_map: (d, d) float32, see `Adapter`; None where nothing was learnt.
        items: (I, d) float32, what queries are compared with; None: the embeddings.
    """

    embeddings: Floats
    history_items: int
    half_life: float
    query_map: Floats | None = None
    items: Floats | None = None

    def adapted(self, adapter: Adapter, path: Path) -> TextRecaller:
        """Returns the recaller with an adapter.

        Args:
            adapter: The maps.
            path: File that will hold the adapted items, as `softgrpo.common.embeddings` writes it.
        """
        items = create_embeddings(path, *self.embeddings.shape)
        for first in range(0, len(items), _ROWS):
            rows = np.asarray(self.embeddings[first : first + _ROWS])
            items[first : first + _ROWS] = unit_rows(rows + rows @ adapter.item)
        return TextRecaller(self.embeddings, self.history_items, self.half_life, adapter.query, items)

    @cached_property
    def has_text(self) -> NDArray[np.bool_]:
        """(I,) whether each item has a text."""
        return np.asarray(self.embeddings.any(axis=1))

    def latest(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
        """Returns the items of each history's query, (B, n), the latest first, -1 behind the last."""
        found = np.full((len(histories), self.history_items), NO_ITEM, dtype=np.int32)
        for row, history in enumerate(histories):
            items = history[self.has_text[history]][: -self.history_items - 1 : -1]
            found[row, : len(items)] = items
        return found

    def means(self, latest: NDArray[np.int32]) -> Floats:
        """Returns the weighted mean embeddings of some items, (B, d) of unit length, zeros where there is no item.

        Args:
            latest: (B, n) as `latest` gives them.
        """
        weights = np.exp2(-np.arange(latest.shape[1], dtype=np.float32) / np.float32(self.half_life))
        return mean_of_latest(self.embeddings, latest, weights)

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """See `softgrpo.recallers.candidates.Scorer`; who the users are does not matter.

        An item without a text has no score, and neither has any in the row of a history without one.
        """
        means = self.means(self.latest(histories))
        queries = means if self.query_map is None else unit_rows(means + means @ self.query_map)
        scores = torch.from_numpy(queries @ (self.embeddings if self.items is None else self.items).T)
        scores[:, torch.from_numpy(~self.has_text)] = -torch.inf
        scores[torch.from_numpy(~means.any(axis=1))] = -torch.inf
        return scores
