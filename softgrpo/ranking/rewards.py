"""The reward of SofT-GRPO: NDCG@k of the list that a set of weights merges. Legend: W windows, B batch, G samples, M recallers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.errors import TrainingError
from softgrpo.ranking.aligned import ABSENT, Aligned, target_positions
from softgrpo.ranking.fusion import align, contenders, target_ranks
from softgrpo.ranking.metrics import all_metrics, check_targets, ndcg

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
    """

    aligned: Aligned
    targets: Tensor
    fusion: FusionConfig

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

    @cached_property
    def contending(self) -> JudgedLists:
        """The same windows with only the items that weights can bring into the first `fusion.k`."""
        return JudgedLists(contenders(self.aligned, self.fusion), self.targets, self.fusion)

    def __len__(self) -> int:
        return len(self.aligned)

    def select(self, index: Tensor) -> JudgedLists:
        """Returns the windows of an index (W',), in its order."""
        return JudgedLists(self.aligned.select(index), self.targets[index], self.fusion)

    def _ranked(self, weights: Tensor, max_rank: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Ranks (w, G, T) and numbers of targets (w, 1) of some windows at a time; `weights` as in `ndcg`."""
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
            yield target_ranks(aligned, positions, weights[part], self.fusion, max_rank), self.num_targets[part, None]

    def ndcg(self, weights: Tensor) -> Tensor:
        """Scores weights, some windows at a time.

        Args:
            weights: (W, G, M), or (G, M) for the same weights in every window.

        Returns:
            (W, G) float64 NDCG@`fusion.k`.

        Raises:
            TrainingError: The weights break a rule of `softgrpo.ranking.aligned.check_weights`.
        """
        ranked = self.contending._ranked(weights, self.fusion.k)
        return torch.cat([ndcg(ranks, num_targets, self.fusion.k) for ranks, num_targets in ranked])

    @property
    def reachable(self) -> Tensor:
        """(W,) bool: some weights may bring a target into the first `fusion.k`; in all other windows every weight earns 0."""
        return (self.contending.positions >= 0).any(1)

    def responsive(self, seed: int) -> Tensor:
        """Returns the windows (W,) bool in which some of `PROBES` weights, such as a recaller alone, earn more than others."""
        alone = torch.eye(self.aligned.num_recallers, dtype=torch.float64)
        drawn = np.random.default_rng(seed).dirichlet(np.ones(len(alone)), max(0, PROBES - len(alone)))
        rewards = self.ndcg(torch.cat([alone, torch.from_numpy(drawn)]))
        return rewards.amax(1) > rewards.amin(1)

    def metrics(self, weights: Tensor, ks: tuple[int, ...]) -> dict[str, Tensor]:
        """Returns each metric of `softgrpo.ranking.metrics.all_metrics` for one weight vector per window, (W, M), as (W,) float64.

        MRR looks at the first D ranks, D being the depth of the lists.
        """
        depth = max(self.aligned.depth, *ks)
        pieces = [
            all_metrics(ranks, num_targets, ks, depth) for ranks, num_targets in self._ranked(weights[:, None], depth)
        ]
        return {name: torch.cat([piece[name] for piece in pieces])[:, 0] for name in pieces[0]}

    def best_metrics(self, choices: Tensor, ks: tuple[int, ...]) -> dict[str, Tensor]:
        """Returns each metric of `metrics` at the best of some weights, chosen anew for each window and metric, as (W,) float64.

        Args:
            choices: (P, M) weights to choose from.
            ks: Cut-offs.
        """
        depth = max(self.aligned.depth, *ks)
        hit = torch.nonzero((self.positions >= 0).any(1))[:, 0]  # in all other windows every weight earns 0
        values = all_metrics(torch.full((len(self), 1), ABSENT), self.num_targets, ks, depth)
        for ranks, num_targets in self.select(hit)._ranked(choices, depth):
            rows, hit = hit[: len(ranks)], hit[len(ranks) :]
            for name, value in all_metrics(ranks, num_targets, ks, depth).items():
                values[name][rows] = value.amax(1)
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


class RankingReward:
    """Callable that scores weight samples by NDCG@`fusion.k` of the merged list.

    Args:
        aligned: Candidate lists of all W training windows, made with the same `fusion`.
        targets: (W, T) int64 item ids, -1 padded; at least one per window.
        fusion: How lists are merged, and the cut-off.

    Raises:
        TrainingError: Lists and targets are of different length.
        DataError: A window without a target.
    """

    def __init__(self, aligned: Aligned, targets: Tensor, fusion: FusionConfig) -> None:
        if targets.ndim != 2 or len(targets) != len(aligned):
            raise TrainingError(
                f"targets of shape {tuple(targets.shape)} for {len(aligned)} windows",
                "rewards need one row of targets per window",
                "take lists and targets of the same windows",
                code="TRAINING-019",
            )
        self._judged = JudgedLists(aligned, targets.long(), fusion).contending
        self._positions = self._judged.positions
        self._num_targets = self._judged.num_targets
        check_targets(self._num_targets)

    def __call__(self, weights: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores weight samples; no Python loop over windows or samples, no recaller called.

        Args:
            weights: (B, G, M), finite, not negative, not all zero.
            batch: `index` (B,) int64 says which windows the prompts are about.

        Returns:
            (B, G) float32 in [0, 1], on the device of the weights.

        Raises:
            TrainingError: NaN, negative or all-zero weights, a wrong shape, or an index outside the windows.
        """
        judged = self._judged
        index = batch["index"].to(judged.targets.device)
        if index.ndim != 1 or (index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(judged)):
            raise TrainingError(
                f"window index of shape {tuple(index.shape)}",
                f"an index is (B,) with numbers from 0 to {len(judged) - 1}",
                "number the prompts as the windows that the reward was made with",
                code="TRAINING-020",
            )
        fusion = judged.fusion
        moved = weights.detach().to(index.device)
        ranks = target_ranks(judged.aligned.select(index), self._positions[index], moved, fusion, fusion.k)
        return ndcg(ranks, self._num_targets[index][:, None], fusion.k).to(weights.device, torch.float32)
