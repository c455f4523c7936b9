"""Candidate lists for the tests of what is known of windows."""

from __future__ import annotations

import numpy as np

from softgrpo.common.records import CandidateLists


def random_lists(windows: int, items: int, depth: int = 8) -> CandidateLists:
    """Returns seeded lists of two recallers, A and B."""
    rng = np.random.default_rng(1)
    ranked = np.stack([rng.permutation(items)[:depth] for _ in range(2 * windows)]).reshape(windows, 2, depth)
    scores = -np.sort(-rng.random(ranked.shape).astype(np.float32), axis=2)
    return CandidateLists(("A", "B"), ranked.astype(np.int32), scores)
