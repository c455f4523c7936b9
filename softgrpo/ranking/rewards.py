"""The reward of SofT-GRPO: NDCG@k of the list that a set of weights merges, or a denser one in training.

Legend: W windows, B batch, G samples, M recallers, C union size, T targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.errors import TrainingError
from softgrpo.ranking.aligned import ABSENT, Aligned, best_ranks, target_positions
from softgrpo.ranking.fusion import METHODS, admitted, align, contenders, target_ranks
from softgrpo.ranking.metrics import all_metrics, check_targets, ndcg
from softgrpo.ranking.normalisation import log_softmax_of_standardised

TrainingReward = Literal["ndcg", "log_probability"]
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
        thin: `aligned` holds only the items that weights can bring into the first `fusion.k`.
    """

    aligned: Aligned
    targets: Tensor
    fusion: FusionConfig
    thin: bool = False

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
        """The same windows with only the items that weights can bring into the first `fusion.k`."""
        return self if self.thin else self._contending

    @cached_property
    def _contending(self) -> JudgedLists:  # thin lists would refer to themselves, which keeps them in memory
        return replace(self, aligned=contenders(self.aligned, self.fusion), thin=True)

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
        self._judged = self._needed(JudgedLists(aligned, targets.long(), fusion))
        self._positions = self._judged.positions
        self._num_targets = self._judged.num_targets
        check_targets(self._num_targets)

    @staticmethod
    def _needed(judged: JudgedLists) -> JudgedLists:
        return judged.contending

    def responsive(self, seed: int) -> Tensor:
        """Returns the windows (W,) bool in which some weights earn more than others, see `JudgedLists.responsive`."""
        return self._judged.responsive(seed)

    def __call__(self, weights: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores weight samples; no Python loop over windows or samples, no recaller called.

        Args:
            weights: (B, G, M), finite, not negative, not all zero.
            batch: `index` (B,) int64 says which windows the prompts are about.

        Returns:
            (B, G) float32, on the device of the weights; an NDCG is in [0, 1].

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
        return self._earned(index, weights.detach().to(index.device)).to(weights.device, torch.float32)

    def _earned(self, index: Tensor, weights: Tensor) -> Tensor:
        """Returns what weights (B, G, M) earn in the windows of an index (B,), (B, G)."""
        judged, fusion = self._judged, self._judged.fusion
        ranks = target_ranks(judged.aligned.select(index), self._positions[index], weights, fusion, fusion.k)
        return ndcg(ranks, self._num_targets[index][:, None], fusion.k)


class LogProbabilityReward(RankingReward):
    """Callable that scores weight samples by the log probability of the targets under a softmax of the merged scores.

    The probability is over all C candidates of a window. Those that a sample leaves out, because all their recallers have weight 0,
    share the score of its last item. The scores are standardised (mean 0, standard deviation 1; 0 where all are equal), so that the
    reward means the same whatever the merge: those of `rrf` all lie within 1/60. The reward is the mean over those targets of the
    window that some recaller lists, 0 where none does.

    Args:
        aligned: Candidate lists of all W training windows, made with the same `fusion`.
        targets: (W, T) int64 item ids, -1 padded; at least one per window.
        fusion: How lists are merged; its cut-off plays no part.

    Raises:
        TrainingError: Lists and targets are of different length, or the merge has no scores.
        DataError: A window without a target.
    """

    def __init__(self, aligned: Aligned, targets: Tensor, fusion: FusionConfig) -> None:
        scores = METHODS[fusion.method].scores
        if scores is None:
            raise TrainingError(
                f"the reward log_probability with the merge {fusion.name}",
                "it is a softmax of merged scores, and this merge has none",
                "Take grpo.reward ndcg, or name a fusion.method with scores",
                code="TRAINING-022",
            )
        self._scores = scores
        super().__init__(aligned, targets, fusion)

    @staticmethod
    def _needed(judged: JudgedLists) -> JudgedLists:
        return judged

    def responsive(self, seed: int) -> Tensor:
        """Returns the windows (W,) bool in which some recaller lists a target: there every change of the weights counts."""
        return (self._positions >= 0).any(1)

    def _earned(self, index: Tensor, weights: Tensor) -> Tensor:
        aligned, positions = self._judged.aligned.select(index), self._positions[index][:, None]  # (B, 1, T)
        weights = admitted(weights, aligned, self._judged.fusion)
        merged = (best_ranks(aligned, weights) < aligned.depth).expand(-1, weights.shape[1], -1)  # (B, G, C)
        scores = self._scores(aligned, weights)
        # of an empty list 0
        last = scores.masked_fill(~merged, torch.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0)
        log_probabilities = log_softmax_of_standardised(torch.where(merged, scores, last), aligned.items[:, None] >= 0)
        of_targets = log_probabilities.gather(2, positions.clamp(min=0).expand(-1, weights.shape[1], -1))  # (B, G, T)
        listed = positions >= 0
        return of_targets.masked_fill(~listed, 0.0).sum(-1) / listed.sum(-1).clamp(min=1)


def training_reward(judged: JudgedLists, kind: TrainingReward, k: int | None) -> RankingReward:
    """Returns what samples earn in training; evaluation and the choice of models use `JudgedLists.ndcg` whatever it is.

    Args:
        judged: The training windows.
        kind: NDCG or log probability of the targets.
        k: Cut-off of the NDCG; None takes that of the merge.
    """
    if kind == "log_probability":
        return LogProbabilityReward(judged.aligned, judged.targets, judged.fusion)
    return RankingReward(judged.aligned, judged.targets, judged.fusion.model_copy(update={"k": k or judged.fusion.k}))
