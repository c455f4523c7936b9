"""A small synthetic test set for the evaluation tests: two recallers, each right for half of the users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from softgrpo.baselines.static_mixture import StaticMixture, best_static_mixture
from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import ExperimentConfig, MergeMethod
from softgrpo.evaluation.rows import Gate, ranker_method, standard_methods
from softgrpo.evaluation.table import Comparison, compare
from softgrpo.policy.blocks import record
from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.searched import SearchedLists

USERS, ITEMS, HISTORY = 30, 40, 8
KEYS = [
    *("Left", "Right", "uniform_score", "uniform_quota", "uniform_rrf", "global_grid", "global_cem", "static"),
    *(
        "gate_trees",
        "ranker",
        "sft_single",
        "sft_multi",
        "grpo_single",
        "grpo_multi",
        "oracle_recaller",
        "oracle_weights",
    ),
]
NAMES = (*(f"number {place}" for place in range(10)), record.HISTORY, record.RECORD, "has a record")
"""What people call the `numbers` of a `Small`."""


@dataclass(frozen=True)
class Small:
    config: ExperimentConfig
    corpus: Corpus
    windows: Windows
    judged: JudgedLists
    static: StaticMixture
    comparison: Comparison
    items: NDArray[np.int32]
    targets: NDArray[np.int32]
    numbers: NDArray[np.float64]


def small_config(**bounds: dict[str, float]) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "data": {"dataset": "<small>"},
            "recall": {"recallers": ("Left", "Right"), "depth": 20},
            "fusion": {"k": 5, "method": "score", "normalisation": "rank_reciprocal", **bounds},
            "evaluation": {"ks": (5,), "bootstrap": 200, "grid_steps": 4},
        }
    )


def small_corpus(generator: np.random.Generator) -> tuple[Corpus, Windows]:
    item = np.concatenate([generator.permutation(ITEMS)[: HISTORY + 2] for _ in range(USERS)]).astype(np.int32)
    user = np.repeat(np.arange(USERS, dtype=np.int32), HISTORY + 2)
    titles = [f"Film {number} <b>&|*" if number else "" for number in range(ITEMS)]
    corpus = Corpus(
        pd.DataFrame({"token": [f"u{number}" for number in range(USERS)]}),
        pd.DataFrame({"token": [str(number) for number in range(ITEMS)], "title": titles, "genres": ""}),
        user,
        item,
        np.arange(len(item), dtype=np.float64),
        np.arange(0, len(item) + 1, HISTORY + 2, dtype=np.int64),
    )
    start = np.full(USERS, HISTORY, dtype=np.int32)
    part = np.full(USERS, Part.TEST, dtype=np.int8)
    return corpus, Windows(np.arange(USERS, dtype=np.int32), part, start, start + 2, start - 4)


def ranked(targets: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.int64]:
    """Returns an order that no weights reach: both targets first where a list holds both, then the left list."""
    rows = []
    for row, lists in zip(targets.tolist(), items.tolist(), strict=True):
        found = [target for target in row if target in lists[0] or target in lists[1]]
        rows.append([*found, *[item for item in lists[0] if item not in found]][:10])
    return np.array(rows, dtype=np.int64)


def small(**bounds: dict[str, float]) -> Small:
    """Returns the comparison, with bounds on the shares as in the section `fusion`."""
    generator = np.random.default_rng(0)
    config = small_config(**bounds)
    corpus, windows = small_corpus(generator)
    targets = corpus.item.reshape(USERS, -1)[:, HISTORY:]
    items = np.stack([np.stack([generator.permutation(ITEMS)[:10] for _ in range(2)]) for _ in range(USERS)])
    for user in range(USERS):  # even users: the left list starts with a target; odd users: the right one
        row = items[user, user % 2]
        row[:] = [targets[user, 0], *[item for item in row if item != targets[user, 0]]][:10]
    scores = torch.arange(10, 0, -1.0).expand(USERS, 2, 10)
    merges = {
        method: JudgedLists.build(
            torch.from_numpy(items),
            scores,
            torch.from_numpy(targets),
            config.merges[0].model_copy(update={"method": method}),
        )
        for method in get_args(MergeMethod)
    }
    judged = merges.pop("score")
    searched = SearchedLists.of(judged)
    static = best_static_mixture(searched, searched, config.recall.recallers, 4, config.seed, ["cem"])
    knows = torch.nn.functional.one_hot(torch.arange(USERS) % 2, 2).double() * 0.8 + 0.1
    learned = {"sft": torch.full((USERS, 2), 0.5, dtype=torch.float64), "grpo": knows}
    gates = {"trees": Gate("Trees | of a kind", knows.flip(1), 0.123, "a <choice>")}
    start = torch.tensor(static.best.weights, dtype=torch.float64)
    ranker = ranker_method("ranker", "Item ranker", ranked(targets, items), judged)
    pool = config.recall.recallers
    free = searched.unbounded
    unbounded = best_static_mixture(free, free, pool, 4, config.seed).best if bounds else None
    methods = standard_methods(judged, pool, static, start, learned, config, gates, merges, [ranker], unbounded)
    comparison = compare(judged, windows.user, np.arange(USERS), methods, static.best_single.name, config)
    numbers = np.random.default_rng(1).random((USERS, 13))
    return Small(config, corpus, windows, judged, static, comparison, items.astype(np.int32), targets, numbers)
