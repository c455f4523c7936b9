"""The row that orders items: fitted in the stage `gates`, asked there and in the stage `test`. Legend: W windows, I items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.baselines.item_numbers import ItemKnowledge, ListedWindows
from softgrpo.baselines.item_ranker import ItemRanker, RankerData, Ranking, fit_item_ranker
from softgrpo.common.records import Part
from softgrpo.data.windows import targets_of, training_counts
from softgrpo.stages.inputs import Prepared


def fit_ranker(prepared: Prepared, embeddings: NDArray[np.float32] | None = None) -> ItemRanker:
    """Fits the item ranker on all policy windows and chooses it on all validation windows.

    Args:
        prepared: Output of the earlier stages.
        embeddings: (I, d) of the items' texts, see `softgrpo.baselines.item_numbers.ItemKnowledge`; None without content.
    """
    targets = targets_of(prepared.corpus, prepared.windows)
    train, valid = prepared.windows.of(Part.POLICY), prepared.windows.of(Part.VALID)
    data = RankerData(
        train=_listed(prepared, train),
        train_targets=targets[train],
        valid=_listed(prepared, valid),
        valid_targets=targets[valid],
        knowledge=_knowledge(prepared, embeddings),
        k=prepared.config.fusion.k,
        seed=prepared.config.seed,
    )
    return fit_item_ranker(data)


def rank_rows(
    prepared: Prepared, ranker: ItemRanker, rows: NDArray[np.int64], embeddings: NDArray[np.float32] | None = None
) -> Ranking:
    """Returns the items of some windows of a run, (W,) numbers, in a ranker's order; embeddings as in `fit_ranker`."""
    return ranker.rank(_listed(prepared, rows), _knowledge(prepared, embeddings))


def _listed(prepared: Prepared, rows: NDArray[np.int64]) -> ListedWindows:
    return ListedWindows.of(prepared.lists, prepared.corpus, prepared.windows, rows)


def _knowledge(prepared: Prepared, embeddings: NDArray[np.float32] | None) -> ItemKnowledge:
    return ItemKnowledge(training_counts(prepared.corpus, prepared.windows), embeddings)
