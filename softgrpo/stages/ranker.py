"""The row that orders items, in the stage `test`. Legend: W windows, I items, d dimensions."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from softgrpo.baselines.item_numbers import ItemKnowledge, ListedWindows
from softgrpo.baselines.item_ranker import RankerData, Ranking, fit_item_ranker
from softgrpo.common.records import Part
from softgrpo.data.windows import targets_of, training_counts
from softgrpo.stages.inputs import Prepared

LABEL = "Item ranker, boosted trees"
logger = logging.getLogger(__name__)


def rank_items(prepared: Prepared, asked: NDArray[np.int64], embeddings: NDArray[np.float32] | None = None) -> Ranking:
    """Fits the item ranker on all policy windows, chooses it on all validation windows and asks it.

    Args:
        prepared: Output of the earlier stages.
        asked: (W,) numbers of the windows whose items are to be ordered.
        embeddings: (I, d) of the items' texts, see `softgrpo.baselines.item_numbers.ItemKnowledge`; None without content.
    """
    corpus, windows, lists = prepared.corpus, prepared.windows, prepared.lists
    targets = targets_of(corpus, windows)
    train, valid = windows.of(Part.POLICY), windows.of(Part.VALID)
    data = RankerData(
        train=ListedWindows.of(lists, corpus, windows, train),
        train_targets=targets[train],
        valid=ListedWindows.of(lists, corpus, windows, valid),
        valid_targets=targets[valid],
        asked=ListedWindows.of(lists, corpus, windows, asked),
        knowledge=ItemKnowledge(training_counts(corpus, windows), embeddings),
        k=prepared.config.fusion.k,
        seed=prepared.config.seed,
    )
    ranking = fit_item_ranker(data)
    logger.info("%s: %s, NDCG %.4f on validation windows", LABEL, ranking.choice, ranking.valid_ndcg)
    return ranking
