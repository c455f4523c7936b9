"""Merge and NDCG of many weight samples: the batched reward against a plain-Python reference, one sample at a time.

Legend: B windows, G weight samples per window, M recallers, D depth, T targets.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Row
from benchmarks.timing import ratio, take_turns
from softgrpo.config import FusionConfig, MergeMethod
from softgrpo.ranking.aligned import Aligned
from softgrpo.ranking.fusion import align
from softgrpo.ranking.rewards import RankingReward

CATALOGUE = 1682  # items of ml-100k
AIMS: dict[MergeMethod, float | None] = {"score": 50.0, "quota": 20.0, "rrf": None}
AGREEMENT = 1e-6
List = list[tuple[int, float]]
"""One recaller's items, best first, each with what one unit of weight gives to it."""


@dataclass(frozen=True)
class Problem:
    """Candidate lists with targets and weights.

    Attributes:
        items: (B, M, D) int64, distinct within a list, best first.
        scores: (B, M, D) float64, falling along a list.
        targets: (B, T) int64.
        weights: (B, G, M) float32, rows sum to 1.
    """

    items: Tensor
    scores: Tensor
    targets: Tensor
    weights: Tensor


def make_problem(
    windows: int = 64, samples: int = 16, recallers: int = 3, depth: int = 100, targets: int = 5, seed: int = 0
) -> Problem:  # fmt: skip
    """Returns lists that overlap as those of recallers do (popular items are in most), and targets from the same draw."""
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, CATALOGUE + 1)
    # the largest of log(popularity) + Gumbel noise are a draw without replacement
    noisy = np.log(popularity) + rng.gumbel(size=(windows, recallers + 1, CATALOGUE))
    order = np.argsort(-noisy, axis=-1)
    logits = rng.normal(size=(windows, samples, recallers))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return Problem(
        torch.from_numpy(order[:, :recallers, :depth].copy()),
        torch.from_numpy(-np.sort(-rng.normal(size=(windows, recallers, depth)), axis=-1)),
        torch.from_numpy(order[:, recallers, :targets].copy()),
        torch.from_numpy(weights.astype(np.float32)),
    )


def plain_lists(aligned: Aligned) -> list[list[List]]:
    """Returns the lists of each window as Python objects, [B][M][D] of (item, value)."""
    windows = []
    for items, values, lists in zip(aligned.items, aligned.values, aligned.lists, strict=True):
        known = items.tolist()
        windows.append(
            [
                [(known[place], row[place]) for place in places[:-1] if place < len(known)]
                for row, places in zip(values.tolist(), lists.tolist(), strict=True)
            ]
        )
    return windows


def merge_by_value(lists: Sequence[List], weights: Sequence[float], k: int) -> list[int]:
    """Returns the k items with the largest sum of weight times value; ties go to the best rank, then the lower item."""
    totals: dict[int, float] = {}
    best: dict[int, int] = {}
    for weight, entries in zip(weights, lists, strict=True):
        if weight > 0:
            for rank, (item, value) in enumerate(entries):
                if item in totals:
                    totals[item] += weight * value
                    if rank < best[item]:
                        best[item] = rank
                else:
                    totals[item] = weight * value
                    best[item] = rank
    return sorted(totals, key=lambda item: (-totals[item], best[item], item))[:k]


def merge_by_quota(lists: Sequence[List], weights: Sequence[float], k: int) -> list[int]:
    """Returns k items in weighted turns, as `softgrpo.ranking.by_quota` defines the method `quota`."""
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    best: dict[int, int] = {}
    for share, entries in zip(shares, lists, strict=True):
        if share > 0:
            for rank, (item, _) in enumerate(entries):
                best[item] = min(rank, best.get(item, rank))
    taken, place = [0] * len(lists), [0] * len(lists)
    merged: list[int] = []
    used: set[int] = set()
    for step in range(1, k + 1):
        choices = []
        for index, (share, entries) in enumerate(zip(shares, lists, strict=True)):
            while place[index] < len(entries) and entries[place[index]][0] in used:
                place[index] += 1
            if share > 0 and place[index] < len(entries):
                item = entries[place[index]][0]
                choices.append((taken[index] - share * step, best[item], item, index))
        if not choices:
            break
        _, _, item, index = min(choices)
        taken[index] += 1
        used.add(item)
        merged.append(item)
    return merged


def plain_ndcg(merged: Sequence[int], targets: set[int], discounts: Sequence[float]) -> float:
    """Returns NDCG of a merged list; `discounts` is the table of 1 / log2(rank + 1), which is as long as the cut-off."""
    gain = math.fsum(discount for item, discount in zip(merged, discounts, strict=False) if item in targets)
    return gain / math.fsum(discounts[: len(targets)])


@dataclass(frozen=True)
class Reference:
    """The same lists, weights and targets as plain Python objects, and their scores without tensors.

    Attributes:
        lists: [B][M][D] pairs of item and value.
        weights: [B][G][M].
        targets: [B] sets.
        fusion: Method and cut-off.
    """

    lists: list[list[List]]
    weights: list[list[list[float]]]
    targets: list[set[int]]
    fusion: FusionConfig

    @classmethod
    def of(cls, problem: Problem, aligned: Aligned, fusion: FusionConfig) -> Reference:
        """Returns the plain form of a problem; the values are those of the aligned lists, so both sides get them ready."""
        targets = [set(row) for row in problem.targets.tolist()]
        return cls(plain_lists(aligned), problem.weights.tolist(), targets, fusion)

    def ndcg(self) -> list[list[float]]:
        """Returns NDCG of every window and sample, [B][G], one sample at a time."""
        k = self.fusion.k
        merge = merge_by_quota if self.fusion.method == "quota" else merge_by_value
        discounts = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
        return [
            [plain_ndcg(merge(lists, weights, k), targets, discounts) for weights in samples]
            for lists, samples, targets in zip(self.lists, self.weights, self.targets, strict=True)
        ]


def measure_merging(device: torch.device, problem: Problem | None = None, rounds: int = 7) -> list[Row]:
    """Measures merge and NDCG, batched against plain Python, for each method; and how long the lists take to be aligned."""
    problem = problem or make_problem()
    rows = []
    windows, samples, recallers = problem.weights.shape
    size = f"(B = {windows}, G = {samples}, M = {recallers}, depth {problem.items.shape[-1]})"
    for method, aim in AIMS.items():
        fusion = FusionConfig(method=method)
        aligned = align(problem.items, problem.scores, fusion)
        reward = RankingReward(aligned.to(device), problem.targets.to(device), fusion)
        reference = Reference.of(problem, aligned, fusion)
        weights, batch = problem.weights.to(device), {"index": torch.arange(windows, device=device)}
        apart = float((reward(weights, batch).cpu() - torch.tensor(reference.ndcg())).abs().max())
        assert apart <= AGREEMENT, f"the two sides differ by {apart} with method {method}"
        seconds = take_turns(
            {"plain": reference.ndcg, "batched": partial(reward, weights, batch)}, rounds, warm_up=2, device=device
        )
        plain, batched = (1000 * statistics.median(seconds[side]) for side in ("plain", "batched"))
        rows.append(
            Row(
                f"merge and NDCG, {method}: batched over plain Python",
                ratio(seconds["plain"], seconds["batched"]),
                "times as fast",
                at_least=aim,
                details=f"{batched:.2f} ms against {plain:.0f} ms {size}, largest difference {apart:.0e}",
            )
        )
    return [*rows, _measure_building(problem, device, rounds)]


def _measure_building(problem: Problem, device: torch.device, rounds: int) -> Row:
    fusion = FusionConfig(method="score")
    items, scores, targets = (tensor.to(device) for tensor in (problem.items, problem.scores, problem.targets))

    def build() -> RankingReward:
        return RankingReward(align(items, scores, fusion), targets, fusion)

    seconds = take_turns({"build": build}, rounds, warm_up=2, device=device)["build"]
    return Row(
        f"aligned candidate tensors of {len(items)} windows, score",
        1000 * statistics.median(seconds),
        "ms",
        details="with all that the reward prepares; done once per training, not part of the lines above",
    )
