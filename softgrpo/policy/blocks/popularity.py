"""How popular the items of lists and history are: log(1 + interactions in the recallers' training part)."""

from __future__ import annotations

import numpy as np

from softgrpo.common.training_part import training_counts
from softgrpo.policy.blocks.block import TOP, Block, Known, Numbers, latest

HISTORY_ITEMS = 50
"""How many of the latest items of a history count."""


def _compute(known: Known) -> Numbers:
    counts = known.popularity
    if counts is None:
        counts = training_counts(known.corpus, known.windows) + (0 if known.elsewhere is None else known.elsewhere)
    popularity = np.log1p(counts).astype(np.float32)
    items = known.lists.items[:, :, :TOP]
    listed = items >= 0
    of_list = np.where(listed, popularity[items], 0.0)  # (W, M, TOP)
    places = latest(known, HISTORY_ITEMS)
    inside = places >= 0
    of_history = np.where(inside, popularity[known.corpus.item[places]], 0.0)  # (W, HISTORY_ITEMS), newest first
    mean = of_list.sum(2) / np.maximum(listed.sum(2), 1)
    usual = of_history.sum(1) / np.maximum(inside.sum(1), 1)
    return {
        "popularity of the first": of_list[:, :, 0],
        f"popularity of {TOP}": mean,
        "popularity above the history's": np.where(listed.any(2), mean - usual[:, None], 0.0),
        "popularity of the history": usual,
        "popularity of the last item": of_history[:, 0],
    }


POPULARITY = Block(
    "popularity", _compute, {f"popularity of {TOP}": "popularity", "popularity of the history": "popularity"}
)
