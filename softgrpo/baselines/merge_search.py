"""Which merge suits the lists: every merge gets its best static weights, and validation windows choose among the merges.

A mixture that was only searched under one merge would be a weak baseline: what a policy gains over it may be no more than what
another merge gives to everybody. So the merge is chosen before anything is learnt, and all rows of the table share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from softgrpo.baselines.static_mixture import Candidate, StaticMixture, best_static_mixture
from softgrpo.config import Baseline, FusionConfig
from softgrpo.ranking.searched import SearchedLists

Judge = Callable[[FusionConfig], SearchedLists]
"""Gives some windows under a merge. It is called for one merge after the other, and the lists of one merge are kept at a time."""


@dataclass(frozen=True)
class TriedMerge:
    """One merge and its best static weights.

    Attributes:
        fusion: The merge.
        best: What is best on validation windows among single recallers, the uniform mixture and what was searched on policy
            windows.
    """

    fusion: FusionConfig
    best: Candidate


@dataclass(frozen=True)
class MergeSearch:
    """The outcome of the search.

    Attributes:
        tried: All merges, in their order.
        chosen: The merge whose best weights have the highest NDCG on validation windows; the earliest of equally good ones.
        static: The best static mixture under it.
        unbounded: The best static mixture under it if there were no bounds on the shares; None without bounds.
    """

    tried: tuple[TriedMerge, ...]
    chosen: FusionConfig
    static: StaticMixture
    unbounded: Candidate | None = None


def search_merges(
    merges: Sequence[FusionConfig],
    policy: Judge,
    valid: Judge,
    recallers: tuple[str, ...],
    grid_steps: int,
    seed: int,
    searches: Sequence[Baseline] = (),
) -> MergeSearch:
    """Searches the merge and the weights that are best for everybody.

    Args:
        merges: At least one; ties go to the earlier.
        policy: Policy windows, which searches look at.
        valid: Validation windows, which decide between weights and between merges.
        recallers: The M names.
        grid_steps: See `softgrpo.baselines.static_mixture.weight_grid`.
        seed: See there; also of the searches.
        searches: Further searches, among `softgrpo.baselines.static_mixture.SEARCH_FUNCTIONS`.

    Raises:
        DataError: There are no policy or no validation windows.
    """

    def search(fusion: FusionConfig) -> StaticMixture:
        return best_static_mixture(policy(fusion), valid(fusion), recallers, grid_steps, seed, searches)

    found = [search(fusion) for fusion in merges]
    chosen = max(range(len(merges)), key=lambda number: found[number].best.valid_ndcg)
    tried = tuple(TriedMerge(fusion, static.best) for fusion, static in zip(merges, found, strict=True))
    unbounded = None if merges[chosen].bounds is None else search(merges[chosen].unbounded).best
    return MergeSearch(tried, merges[chosen], found[chosen], unbounded)
