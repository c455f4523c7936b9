"""Lists as the searches for everybody's weights read them: only the windows, and of these only the items, that can earn anything.

Legend: W windows, P points, M recallers, D depth, T targets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softgrpo.ranking.aligned import AlignedBuffer
from softgrpo.ranking.judged import JudgedLists


@dataclass(frozen=True)
class SearchedLists:
    """The windows of a search.

    Attributes:
        hit: Those in which some recaller lists a target, with the items that weights can bring into the first `fusion.k`.
        total: How many windows there are, all others with NDCG 0 whatever the weights.
    """

    hit: JudgedLists
    total: int

    @classmethod
    def of(cls, judged: JudgedLists) -> SearchedLists:
        """Returns what a search reads of windows that are all in memory."""
        hit = torch.nonzero((judged.positions >= 0).any(1))[:, 0]
        return cls(judged.select(hit).contending, len(judged))

    @classmethod
    def join(cls, shards: Iterable[JudgedLists], targets: Tensor, total: int) -> SearchedLists:
        """Takes windows some at a time, and keeps nothing of them but the contending items.

        Args:
            shards: At least one; the windows in which some recaller lists a target, under the same merge.
            targets: (W, T) those of all these windows, -1 padded.
            total: How many windows there are with those in which no recaller lists a target.
        """
        buffer, last = AlignedBuffer(len(targets)), None
        for shard in shards:
            last = shard.contending
            buffer.add(last.aligned)
        assert last is not None, "at least one shard"
        return cls(replace(last, aligned=buffer.whole(), targets=targets.long()), total)

    def __len__(self) -> int:
        return self.total

    @property
    def unbounded(self) -> SearchedLists:
        """The same windows, merged without bounds on the recallers' shares."""
        return SearchedLists(self.hit.unbounded, self.total)

    def standard_error(self, weights: Tensor) -> float:
        """Returns the standard error of the mean NDCG@`fusion.k` of weights (M,) over all windows."""
        if not len(self.hit) or self.total < 2:
            return 0.0
        values = self.hit.ndcg(weights[None])[:, 0]
        mean = values.sum() / self.total
        spread = (values - mean).square().sum() + (self.total - len(values)) * mean.square()
        return float((spread / (self.total - 1) / self.total).sqrt())

    def mean_ndcg(self, weights: Tensor) -> Tensor:
        """Returns the mean NDCG@`fusion.k` of weights (P, M) over all windows, (P,) float64."""
        if not len(self.hit):
            return torch.zeros(len(weights), dtype=torch.float64)
        return self.hit.ndcg(weights).sum(0) / self.total
