"""How well the texts of a list match the history: cosines with the last item and with a profile of the latest ones.

Legend: w windows of a chunk, H items of a profile, M recallers, d components of an embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.embeddings import unit_rows
from softgrpo.policy.blocks.block import TOP, Block, Known, Numbers, chunks, latest

PROFILE_ITEMS, DECAY = 10, 0.7
"""A profile is the mean of the latest items' embeddings, each weighted by `DECAY` to the power of its age in items."""
_QUERIES = ("last item", "profile")


def _compute(known: Known) -> Numbers:
    embeddings = known.embeddings
    assert embeddings is not None, "the block is left out where there are none"
    count, recallers = known.lists.items.shape[:2]
    places = latest(known, PROFILE_ITEMS)
    first, mean, best = (np.zeros((count, recallers, len(_QUERIES)), dtype=np.float32) for _ in range(3))
    for part in chunks(count):
        queries = _queries(known.corpus.item[places[part]], places[part] >= 0, embeddings)
        for recaller in range(recallers):
            items = known.lists.items[part, recaller, :TOP]
            listed = (items >= 0)[:, :, None]
            match = embeddings[items] @ queries  # (w, TOP, queries)
            first[part, recaller] = np.where(listed[:, 0], match[:, 0], 0.0)
            mean[part, recaller] = np.where(listed, match, 0.0).sum(1) / np.maximum(listed.sum(1), 1)
            best[part, recaller] = np.where(listed.any(1), np.where(listed, match, -np.inf).max(1), 0.0)
    matches = {"first": first, f"mean of {TOP}": mean, f"best of {TOP}": best}
    return {
        f"text of {which} like the {query}": values[:, :, place]
        for which, values in matches.items()
        for place, query in enumerate(_QUERIES)
    }


def _queries(
    items: NDArray[np.int32], known: NDArray[np.bool_], embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns the embedding of the last item and that of the profile, unit length or zeros, as (w, d, 2).

    Args:
        items: (w, H), newest first.
        known: (w, H) whether there is such an item.
        embeddings: Of all items.
    """
    weights = np.where(known, DECAY ** np.arange(items.shape[1]), 0.0).astype(np.float32)
    texts = embeddings[items]  # (w, H, d)
    # a matrix product, where `mean_of_latest` adds up place by place: the last digits differ, and policies learnt from these
    return np.stack([texts[:, 0], unit_rows((weights[:, None] @ texts)[:, 0])], axis=2)


CONTENT = Block("content", _compute, {f"text of mean of {TOP} like the profile": "match"}, needs="embeddings")
