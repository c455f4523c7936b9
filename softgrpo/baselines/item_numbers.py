"""What the item ranker sees of every candidate item of a window.

Legend: W windows, w windows of a chunk, M recallers, D depth, C union size, I items, F numbers, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.common.embeddings import mean_of_latest
from softgrpo.common.records import CandidateLists, Corpus, Windows
from softgrpo.ranking.aligned import over_union

LATEST, FADING = 5, 0.7
"""The profile is the mean of the embeddings of the latest items, with weights `FADING` to the power of their age."""
CHUNK = 256


@dataclass(frozen=True)
class ItemKnowledge:
    """What is known of items before the first window.

    Attributes:
        popularity: (I,) interactions in the recallers' training part.
        embeddings: (I, d) float32 of unit length, zeros for an item without text; None where the run has none.
    """

    popularity: NDArray[np.int64]
    embeddings: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ListedWindows:
    """Some windows as the ranker sees them; there is no target in them.

    Attributes:
        items: (W, M, D) int32 item ids, -1 behind the end of a list.
        scores: (W, M, D) float32, NaN there.
        latest: (W, `LATEST`) int32 last items of the history, the latest first, -1 behind the first of a shorter one.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    latest: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, lists: CandidateLists, corpus: Corpus, windows: Windows, rows: NDArray[np.int64]) -> ListedWindows:
        """Returns the windows of some numbers, in their order."""
        return cls(lists.items[rows], lists.scores[rows], latest_items(corpus, windows, rows))

    def select(self, index: NDArray[np.int64] | slice) -> ListedWindows:
        """Returns the windows of an index, in its order."""
        return ListedWindows(self.items[index], self.scores[index], self.latest[index])


@dataclass(frozen=True)
class Candidates:
    """The candidate items of w windows.

    Attributes:
        items: (w, C) int64 union of the lists, ascending, -1 behind its end.
        best: (w, C) int64 best rank in any list, from 0; at least D behind the end of the union.
        numbers: (w, C, F) float32, NaN where a list does not hold the item.
    """

    items: NDArray[np.int64]
    best: NDArray[np.int64]
    numbers: NDArray[np.float32]


def latest_items(corpus: Corpus, windows: Windows, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Returns the last items before some windows, (W, `LATEST`), see `ListedWindows.latest`."""
    age = np.arange(LATEST)
    start = windows.start[rows].astype(np.int64)[:, None]
    at = corpus.offsets[windows.user[rows]][:, None] + start - 1 - age
    return np.where(age < start, corpus.item[np.maximum(at, 0)], -1).astype(np.int32)


def candidates_of(windows: ListedWindows, knowledge: ItemKnowledge) -> Iterator[tuple[slice, Candidates]]:
    """Gives the candidate items of `CHUNK` windows at a time, with the place of these windows.

    The F numbers of an item are, for each recaller, its rank from 1, its score, and its score as a share of the way from the list's
    last to its first score; then the number of lists that hold it and log(1 + popularity); and where there are embeddings, the
    cosines with the last item of the history and with its profile.
    """
    for begin in range(0, len(windows), CHUNK):
        part = slice(begin, min(begin + CHUNK, len(windows)))
        yield part, _candidates(windows.select(part), knowledge)


def _candidates(windows: ListedWindows, knowledge: ItemKnowledge) -> Candidates:
    scores = torch.from_numpy(np.nan_to_num(windows.scores))
    aligned = over_union(torch.from_numpy(windows.items).long(), scores)
    items, ranks, values = aligned.items.numpy(), aligned.ranks.numpy(), aligned.values.numpy()
    absent = ranks >= aligned.depth  # (w, M, C)
    filled = windows.items >= 0
    first = np.where(filled, windows.scores, -np.inf).max(2, initial=-np.inf)[..., None]
    last = np.where(filled, windows.scores, np.inf).min(2, initial=np.inf)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(first > last, (values - last) / (first - last), 1.0)
    by_list = [np.where(absent, np.nan, each) for each in (ranks + 1, values, share)]
    held = (~absent).sum(1)[:, None]
    by_item = [held, np.log1p(knowledge.popularity[items])[:, None]]
    if knowledge.embeddings is not None:
        by_item.append(_content(items, windows.latest, knowledge.embeddings))
    numbers = np.concatenate([*by_list, *by_item], axis=1).transpose(0, 2, 1).astype(np.float32)
    return Candidates(items, ranks.min(1).astype(np.int64), numbers)


def _content(
    items: NDArray[np.int64], latest: NDArray[np.int32], embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns the cosines (w, 2, C) of items (w, C) with the last item and with the profile; 0 where one has no text."""
    weights = (FADING ** np.arange(latest.shape[1])).astype(np.float32)
    profile = mean_of_latest(embeddings, latest, weights)
    queries = np.stack([embeddings[latest[:, 0]], profile], axis=1)  # (w, 2, d)
    cosines: NDArray[np.float32] = queries @ embeddings[items].transpose(0, 2, 1)
    return cosines
