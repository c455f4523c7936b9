"""The reward of SofT-GRPO: NDCG@k of the list that a set of weights merges, or a denser one in training.

Legend: W windows, B batch, G samples, M recallers, C union size, T targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.errors import TrainingError
from softgrpo.ranking.aligned import Aligned, best_ranks
from softgrpo.ranking.fusion import METHODS, admitted, target_ranks
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.metrics import check_targets, ndcg
from softgrpo.ranking.normalisation import log_softmax_of_standardised

TrainingReward = Literal["ndcg", "log_probability"]


class RankingReward:
    """Callable that scores weight samples by NDCG@`fusion.k` of the merged list.

    Args:
        aligned: Candidate lists of all W training windows, made with the same `fusion`.
        targets: (W, T) int64 item ids, -1 padded; at least one per window.
        fusion: How lists are merged, and the cut-off.
        thinned_to: See `JudgedLists`.

    Raises:
        TrainingError: Lists and targets are of different length, or items that the cut-off needs were left out.
        DataError: A window without a target.
    """

    def __init__(self, aligned: Aligned, targets: Tensor, fusion: FusionConfig, thinned_to: int | None = None) -> None:
        if targets.ndim != 2 or len(targets) != len(aligned):
            raise TrainingError(
                f"targets of shape {tuple(targets.shape)} for {len(aligned)} windows",
                "rewards need one row of targets per window",
                "take lists and targets of the same windows",
                code="TRAINING-019",
            )
        self._judged = self._needed(JudgedLists(aligned, targets.long(), fusion, thinned_to))
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

    Raises:
        TrainingError: Items that the reward needs were left out, see `JudgedLists.thinned_to`.
    """
    if kind == "log_probability":
        whole = judged.with_all_items
        return LogProbabilityReward(whole.aligned, whole.targets, whole.fusion)
    fusion = judged.fusion.model_copy(update={"k": k or judged.fusion.k})
    return RankingReward(judged.aligned, judged.targets, fusion, judged.thinned_to)
