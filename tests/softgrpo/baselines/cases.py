"""Problems for the baselines: one where a single number says which recaller is right, and a whole small pipeline in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from softgrpo.baselines.gates import Gate
from softgrpo.baselines.inputs import Asked, GateData
from softgrpo.baselines.merge_search import search_merges
from softgrpo.common.records import CandidateLists, Corpus, Part
from softgrpo.config import ExperimentConfig, FusionConfig
from softgrpo.data.windows import targets_of
from softgrpo.policy.blocks.block import Known
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.searched import SearchedLists
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.shards import judge
from softgrpo.stages.teacher import gate_data
from tests.softgrpo.data.cases import corpus_of, windows_of
from tests.support.whole import make_features, window_numbers

FUSION = FusionConfig(method="score", normalisation="rank_reciprocal", k=1)
LEFT_RIGHT, RIGHT_RIGHT = [[3, 4], [1, 2]], [[1, 2], [3, 4]]
"""Target 3 is first in the left list, or in the right one. Where both weigh the same, item 1 wins the tie: a miss for k = 1."""
USERS, ITEMS = 40, 60


def switch(count: int, seed: int) -> tuple[JudgedLists, torch.Tensor, np.ndarray]:
    """Returns windows, numbers (W, 2) whose first one is positive where the left list is right, and NDCG per recaller (W, 2)."""
    generator = np.random.default_rng(seed)
    left = generator.random(count) < 0.5
    items = torch.tensor([LEFT_RIGHT if each else RIGHT_RIGHT for each in left])
    scores = torch.tensor([2.0, 1.0]).expand(items.shape)
    numbers = np.stack(
        [np.where(left, 1.0, -1.0) * generator.uniform(0.5, 1.5, count), generator.normal(size=count)], 1
    )
    ndcg = np.stack([left, ~left], axis=1).astype(np.float32)
    judged = JudgedLists.build(items, scores, torch.full((count, 1), 3), FUSION)
    return judged, torch.from_numpy(numbers).float(), ndcg


def switch_data(train: int = 300, valid: int = 60, test: int = 80) -> tuple[GateData, Asked, JudgedLists]:
    """Returns what gates get of the problem `switch`, what they are asked, and the test windows to judge them on."""
    parts = [switch(count, seed) for seed, count in enumerate((train, valid, test))]
    half = torch.full((2,), 0.5, dtype=torch.float64)
    # short where the left list is right
    learnt, chosen, asked = (np.where(part[1][:, 0] > 0, 2, 9) for part in parts)
    numbers = (parts[0][1], parts[1][1])
    data = GateData(
        *(parts[0][0], parts[0][2], parts[1][0], numbers, half, half.log(), 1, "ndcg", None, 0.25, (learnt, chosen))
    )
    return data, Asked(parts[2][1], asked), parts[2][0]


def small_config(**evaluation: object) -> ExperimentConfig:
    """Returns the settings of `small_prepared`."""
    return ExperimentConfig.model_validate(
        {
            "recall": {"recallers": ("Left", "Right"), "depth": 20},
            "fusion": {"method": "rrf", "k": 5},
            "evaluation": {"ks": (5,), "bootstrap": 200, **evaluation},
        }
    )


def small_corpus(test_seed: int) -> Corpus:
    """Returns 40 users with 10 items each; the seed decides the last two of each user, and those alone."""
    fixed, late = np.random.default_rng(0), np.random.default_rng(test_seed)
    rows = []
    for _ in range(USERS):
        order = fixed.permutation(ITEMS)
        rows.append([*order[:8].tolist(), *late.permutation(order[8:])[:2].tolist()])
    return corpus_of(rows)


def small_prepared(config: ExperimentConfig, test_seed: int = 7, test: bool = True) -> Prepared:
    """Returns what the stage `data` leaves behind, in memory: random lists, two policy windows, one valid, one test per user."""
    corpus = small_corpus(test_seed)
    parts = [(Part.POLICY, 2, 4), (Part.POLICY, 4, 6), (Part.VALID, 6, 8), (Part.TEST, 8, 10)]
    rows = [(user, *part) for user in range(USERS) for part in parts if test or part[0] != Part.TEST]
    windows = windows_of(rows, [2] * USERS)
    generator = np.random.default_rng(3)
    items = np.stack([generator.permutation(ITEMS)[:20] for _ in range(2 * len(windows))])
    scores = -np.sort(-generator.random(items.shape).astype(np.float32), axis=1)
    lists = CandidateLists(("Left", "Right"), items.reshape(-1, 2, 20).astype(np.int32), scores.reshape(-1, 2, 20))
    targets = targets_of(corpus, windows)
    search = search_merges(
        config.merges,
        lambda fusion: SearchedLists.of(judge(lists, targets, windows.of(Part.POLICY), fusion, None)),
        lambda fusion: SearchedLists.of(judge(lists, targets, windows.of(Part.VALID), fusion, None)),
        lists.recallers,
        10,
        config.seed,
        config.evaluation.searches,
    )
    features = make_features(lists, windows, targets, config.fusion.k)
    prepared = Prepared(config, Path("nowhere"), Path("nowhere"))
    prepared.__dict__.update(
        corpus=corpus,
        windows=windows,
        lists=lists,
        stored_lists=lists,
        features=features,
        numbers=window_numbers(Known(corpus, windows, lists, features), config.told_features),
        merges=search,
        fusion=search.chosen,
        static=search.static,
    )
    return prepared


def fitted(prepared: Prepared, kind: str) -> Gate:
    """Returns a gate that learnt from the windows that SofT-GRPO learns from."""
    return Gate.fit(kind, *gate_data(prepared, prepared.rewarded_rows()))
