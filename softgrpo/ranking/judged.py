"""Candidate lists of windows beside their targets: what any weights are worth there, as NDCG@k of the list that they merge.

Legend: W windows, G samples, M recallers, C union size, T targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.errors import TrainingError
from softgrpo.ranking.aligned import ABSENT, Aligned, target_positions
from softgrpo.ranking.fusion import align, contenders, target_ranks
from softgrpo.ranking.metrics import all_metrics, ndcg

PROBES = 64
"""Weights that `JudgedLists.responsive` tries."""
_CELLS = 2**18
"""(window, sample, item) cells merged at a time: pieces that stay in the processor cache are 5 times as fast."""


@dataclass(frozen=True)
class JudgedLists:
    """Candidate lists of W windows together with what the right answers are.

    Attributes:
        aligned: The lists.
        targets: (W, T) int64 item ids, -1 padded; at least one per window.
        fusion: How lists are merged; the one `aligned` was made with.
        thinned_to: `aligned` holds only the items that weights can bring into this many first places, at least `fusion.k`; None:
            all items.
    """

    aligned: Aligned
    targets: Tensor
    fusion: FusionConfig
    thinned_to: int | None = None

    @classmethod
    def build(
        cls, items: Tensor, scores: Tensor, targets: Tensor, fusion: FusionConfig, platt: Tensor | None = None
    ) -> JudgedLists:
        """Aligns lists (W, M, D) and puts the targets (W, T) beside them; see `softgrpo.ranking.fusion.align`."""
        return cls(align(items, scores, fusion, platt), targets.long(), fusion)

    @cached_property
    def positions(self) -> Tensor:
        """(W, T) place of each target in the union, -1 where no list holds it."""
        return target_positions(self.aligned, self.targets)

    @cached_property
    def num_targets(self) -> Tensor:
        """(W,) int64 targets of each window, found or not."""
        return (self.targets >= 0).sum(-1)

    @property
    def contending(self) -> JudgedLists:
        """The same windows with only the items that weights can bring into the first `fusion.k`.

        Raises:
            TrainingError: Some of these items were left out before, for a smaller cut-off.
        """
        if self.thinned_to is None:
            return self._contending
        if self.thinned_to < self.fusion.k:
            raise self._lacks_items(f"NDCG@{self.fusion.k}")
        return self

    @property
    def with_all_items(self) -> JudgedLists:
        """The same windows, none of whose items was left out.

        Raises:
            TrainingError: Some were.
        """
        if self.thinned_to is not None:
            raise self._lacks_items("what is over all items")
        return self

    def _lacks_items(self, what: str) -> TrainingError:
        return TrainingError(
            f"windows with the items of the first {self.thinned_to} places, for {what}",
            "items that are needed must not have been left out",
            "take the windows with all their items",
            code="TRAINING-029",
        )

    @cached_property
    def _contending(self) -> JudgedLists:  # thin lists would refer to themselves, which keeps them in memory
        return replace(self, aligned=contenders(self.aligned, self.fusion), thinned_to=self.fusion.k)

    @property
    def unbounded(self) -> JudgedLists:
        """The same windows, merged without bounds on the recallers' shares; itself where there are none."""
        return replace(self, fusion=self.fusion.unbounded) if self.fusion.bounds else self

    def __len__(self) -> int:
        return len(self.aligned)

    def select(self, index: Tensor) -> JudgedLists:
        """Returns the windows of an index (W',), in its order."""
        return replace(self, aligned=self.aligned.select(index), targets=self.targets[index])

    def _ranked(self, weights: Tensor, max_rank: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some windows at a time, with their ranks (w, G, T) and numbers of targets (w, 1); `weights` as in `ndcg`."""
        if weights.ndim == 2:
            weights = weights.expand(len(self), -1, -1)
        if len(weights) != len(self):
            raise TrainingError(
                f"weights for {len(weights)} windows",
                f"there are {len(self)} windows",
                "pass one set of weights per window",
                code="TRAINING-018",
            )
        step = max(1, _CELLS // (weights.shape[1] * self.aligned.items.shape[1]))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            aligned, positions = self.aligned.select(part), self.positions[part]
            ranks = target_ranks(aligned, positions, weights[part], self.fusion, max_rank)
            yield part, ranks, self.num_targets[part, None]

    def ndcg(self, weights: Tensor) -> Tensor:
        """Scores weights, some windows at a time.

        Args:
            weights: (W, G, M), or (G, M) for the same weights in every window.

        Returns:
            (W, G) float64 NDCG@`fusion.k`.

        Raises:
            TrainingError: The weights break a rule of `softgrpo.ranking.aligned.check_weights`.
        """
        found = torch.empty(len(self), weights.shape[-2], dtype=torch.float64, device=self.targets.device)
        for part, ranks, num_targets in self.contending._ranked(weights, self.fusion.k):
            found[part] = ndcg(ranks, num_targets, self.fusion.k)
        return found

    @property
    def reachable(self) -> Tensor:
        """(W,) bool: some weights may bring a target into the first `fusion.k`; in all other windows every weight earns 0."""
        return (self.contending.positions >= 0).any(1)

    def responsive(self, seed: int) -> Tensor:
        """Returns the windows (W,) bool in which some of `PROBES` weights, such as a recaller alone, earn more than others."""
        alone = torch.eye(self.aligned.num_recallers).double()
        drawn = np.random.default_rng(seed).dirichlet(np.ones(len(alone)), max(0, PROBES - len(alone)))
        rewards = self.ndcg(torch.cat([alone, torch.from_numpy(drawn)]))
        return rewards.amax(1) > rewards.amin(1)

    def metrics(self, weights: Tensor, ks: tuple[int, ...]) -> dict[str, Tensor]:
        """Returns each metric of `softgrpo.ranking.metrics.all_metrics` for one weight vector per window, (W, M), as (W,) float64.

        MRR looks at the first D ranks, D being the depth of the lists.
        """
        depth = max(self.aligned.depth, *ks)
        values = all_metrics(torch.full((len(self), 1), ABSENT), self.num_targets, ks, depth)
        for part, ranks, num_targets in self._ranked(weights[:, None], depth):
            for name, value in all_metrics(ranks, num_targets, ks, depth).items():
                values[name][part] = value[:, 0]
        return values

    def best_metrics(self, choices: Tensor, ks: tuple[int, ...]) -> dict[str, Tensor]:
        """Returns each metric of `metrics` at the best of some weights, chosen anew for each window and metric, as (W,) float64.

        Args:
            choices: (P, M) weights to choose from.
            ks: Cut-offs.
        """
        depth = max(self.aligned.depth, *ks)
        hit = torch.nonzero((self.positions >= 0).any(1))[:, 0]  # in all other windows every weight earns 0
        values = all_metrics(torch.full((len(self), 1), ABSENT), self.num_targets, ks, depth)
        for part, ranks, num_targets in self.select(hit)._ranked(choices, depth):
            for name, value in all_metrics(ranks, num_targets, ks, depth).items():
                values[name][hit[part]] = value.amax(1)
        return values


def judge_order(items: NDArray[np.int64], targets: NDArray[np.integer], k: int) -> JudgedLists:
    """Returns one order of items per window beside the targets, as if it were that of a single recaller.

    Args:
        items: (W, D) item ids, best first, -1 behind the end.
        targets: (W, T) item ids, -1 padded; at least one per window.
        k: Cut-off of the NDCG.
    """
    scores = -torch.arange(items.shape[1], dtype=torch.float32).expand(items.shape)
    return JudgedLists.build(
        torch.from_numpy(items)[:, None], scores[:, None], torch.from_numpy(targets), FusionConfig(method="rrf", k=k)
    )
