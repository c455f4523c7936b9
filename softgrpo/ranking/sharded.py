"""Windows that are too many to be aligned at once: the same lists and targets, a shard at a time.

What is worked out of a window follows from that window alone, so no number depends on the size of a shard.
Legend: W windows, w windows of a shard, G weight vectors, M recallers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.ranking.judged import JudgedLists

Build = Callable[[NDArray[np.int64]], JudgedLists]
"""From the places of some windows, (w,) in 0..W-1, to their lists and targets."""


@dataclass(frozen=True)
class ShardedLists:
    """W windows that are aligned some at a time, anew in each pass; those of a single shard are kept.

    Attributes:
        build: Aligns some of them.
        count: W.
        step: Windows in a shard.
        fusion: How lists are merged.
        num_recallers: M; 1 where a ranker made the lists.
        targets: (W, T) int64 item ids, -1 padded.
    """

    build: Build
    count: int
    step: int
    fusion: FusionConfig
    num_recallers: int
    targets: Tensor

    def __len__(self) -> int:
        return self.count

    @cached_property
    def _whole(self) -> JudgedLists:
        return self.build(np.arange(self.count))

    def shards(self) -> Iterator[tuple[slice, JudgedLists]]:
        """Gives the windows a shard at a time, with their places."""
        if self.count <= self.step:
            yield slice(0, self.count), self._whole
            return
        for first in range(0, self.count, self.step):
            part = slice(first, min(first + self.step, self.count))
            yield part, self.build(np.arange(part.start, part.stop))

    def at(self, places: NDArray[np.int64]) -> JudgedLists:
        """Returns some of the windows, in the order asked for."""
        return self._whole.select(torch.from_numpy(places)) if self.count <= self.step else self.build(places)

    @property
    def unbounded(self) -> ShardedLists:
        """The same windows, merged without bounds on the recallers' shares; itself where there are none."""
        if self.fusion.bounds is None:
            return self
        return replace(self, build=lambda places: self.at(places).unbounded, fusion=self.fusion.unbounded)


Judged = JudgedLists | ShardedLists
"""Windows with their lists and targets, aligned all at once or a shard at a time."""


def shards_of(judged: Judged) -> Iterator[tuple[slice, JudgedLists]]:
    """Gives windows a shard at a time, with their places; those that are aligned already at once."""
    if isinstance(judged, ShardedLists):
        yield from judged.shards()
    else:
        yield slice(0, len(judged)), judged


def windows_at(judged: Judged, places: NDArray[np.int64]) -> JudgedLists:
    """Returns some windows, in the order asked for."""
    return judged.at(places) if isinstance(judged, ShardedLists) else judged.select(torch.from_numpy(places))


def recallers_of(judged: Judged) -> int:
    """Returns M."""
    return judged.num_recallers if isinstance(judged, ShardedLists) else judged.aligned.num_recallers


def ndcg_of(judged: Judged, weights: Tensor) -> Tensor:
    """Returns NDCG@`fusion.k` of weights (W, G, M), or of the same (G, M) in every window, as (W, G) float64."""
    found = torch.empty(len(judged), weights.shape[-2], dtype=torch.float64)
    for part, shard in shards_of(judged):
        found[part] = shard.ndcg(weights if weights.ndim == 2 else weights[part])
    return found


def best_of(judged: Judged, grid: Tensor) -> Tensor:
    """Returns the place of the best of some weights (P, M) in each window, (W,) int64; the earliest of equally good ones."""
    found = torch.empty(len(judged), dtype=torch.int64)
    for part, shard in shards_of(judged):
        found[part] = shard.ndcg(grid).argmax(1)
    return found
