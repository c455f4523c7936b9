"""The row that orders items: fitted in the stage `gates`, asked there and in the stage `test`. Legend: W windows, I items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.baselines.item_numbers import ItemKnowledge, ListedWindows, latest_items
from softgrpo.baselines.item_ranker import ItemRanker, RankerData, Ranking, fit_item_ranker
from softgrpo.common.records import Part
from softgrpo.common.scratch import scratch
from softgrpo.common.training_part import training_counts
from softgrpo.data.windows import targets_of
from softgrpo.recallers.candidates import BLOCK
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.shards import in_shards


def fit_ranker(prepared: Prepared, embeddings: NDArray[np.float32] | None = None) -> ItemRanker:
    """Fits the item ranker on the policy windows and chooses it on the validation windows that `train.sample_windows` allows.

    Args:
        prepared: Output of the earlier stages.
        embeddings: (I, d) of the items' texts, see `softgrpo.baselines.item_numbers.ItemKnowledge`; None without content.
    """
    targets = targets_of(prepared.corpus, prepared.windows)
    windows = prepared.learning_rows
    train, valid = windows[prepared.windows.part[windows] == Part.POLICY], prepared.validation_rows
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
    knowledge = _knowledge(prepared, embeddings)
    found: Ranking | None = None
    for places in in_shards(np.arange(len(rows)), BLOCK):
        part = ranker.rank(_listed(prepared, rows[places]), knowledge)
        if found is None:
            shape = (len(rows), part.items.shape[1])
            found = Ranking(scratch(shape, part.items.dtype), scratch(shape, part.scores.dtype))
        found.items[places], found.scores[places] = part.items, part.scores
    assert found is not None, "in_shards gives at least one"
    return found


def _listed(prepared: Prepared, rows: NDArray[np.int64]) -> ListedWindows:
    lists = prepared.stored_lists.rows(rows)
    return ListedWindows(lists.items, lists.scores, latest_items(prepared.corpus, prepared.windows, rows))


def _knowledge(prepared: Prepared, embeddings: NDArray[np.float32] | None) -> ItemKnowledge:
    return ItemKnowledge(training_counts(prepared.corpus, prepared.windows), embeddings)
