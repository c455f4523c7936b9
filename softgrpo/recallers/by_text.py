"""The recaller `Text`: the unseen items whose texts are closest to those of the history's latest items.

Legend: I items, B windows of a batch, d numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

MOST_SCORES = 2**24
"""Scores of a batch that are held at a time: 64 MiB."""


def windows_at_a_time(batch_size: int, num_items: int) -> int:
    """Returns how many windows are scored at a time, so that memory stays small however many items there are."""
    return max(1, min(batch_size, MOST_SCORES // num_items))


@dataclass(frozen=True)
class TextRecaller:
    """Scores are cosines between a query, made of the history's latest items, and every item.

    Attributes:
        embeddings: (I, d) float32 rows of unit length, zeros where an item has no text.
        history_items: The latest items of the history that have a text, at most this many, make the query.
        half_life: Items after which a weight in the query has halved, counted from the latest of these items back.
    """

    embeddings: NDArray[np.float32]
    history_items: int
    half_life: float

    @cached_property
    def has_text(self) -> NDArray[np.bool_]:
        """(I,) whether each item has a text."""
        return np.asarray(self.embeddings.any(axis=1))

    def queries(self, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Returns the query of each history, (B, d) of unit length, zeros where no item of a history has a text."""
        found = np.zeros((len(histories), self.embeddings.shape[1]), dtype=np.float32)
        for row, history in enumerate(histories):
            latest = history[self.has_text[history]][-self.history_items :]
            age = np.arange(len(latest), dtype=np.float32)[::-1]
            found[row] = np.exp2(-age / self.half_life) @ self.embeddings[latest]
        length = np.linalg.norm(found, axis=1, keepdims=True)
        found /= np.where(length > 0, length, 1)
        return found

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """See `softgrpo.recallers.candidates.Scorer`; who the users are does not matter.

        An item without a text has no score, and neither has any in the row of a history without one.
        """
        queries = self.queries(histories)
        scores = torch.from_numpy(queries @ self.embeddings.T)
        scores[:, torch.from_numpy(~self.has_text)] = -torch.inf
        scores[torch.from_numpy(~queries.any(axis=1))] = -torch.inf
        return scores
