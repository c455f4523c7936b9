"""The numbers that tell where a window stands in its user's sequence: track record, its counts, length of the history."""

from __future__ import annotations

import numpy as np

from softgrpo.policy.blocks.block import Block, Known, Numbers

HISTORY, RECORD = "history length", "windows in the record"
"""Two numbers that are logarithms: log(1 + count)."""


def _compute(known: Known) -> Numbers:
    features = known.features
    with np.errstate(divide="ignore"):
        inverse_rank = 1.0 / features.track_rank.astype(np.float64)
    count = features.track_count.astype(np.float64)
    return {
        "NDCG in the record": features.track_ndcg,
        "1 / rank in the record": inverse_rank,
        HISTORY: np.log1p(known.windows.start.astype(np.float64)),
        RECORD: np.log1p(count),
        "has a record": (count > 0).astype(np.float64),
    }


RECORD_BLOCK = Block("record", _compute, {})
"""Prompts tell these in their own way: by `prompt.track_record` and `prompt.history_length`."""
