"""Which merge suits the lists: every merge gets its best static weights, and validation windows choose among the merges.

A mixture that was only searched under one merge would be a weak baseline: what a policy gains over it may be no more than what
another merge gives to everybody. So the merge is chosen before anything is learnt, and all rows of the table share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from softgrpo.baselines.static_mixture import Candidate, StaticMixture, best_static_mixture
from softgrpo.config import Baseline, FusionConfig
from softgrpo.ranking.rewards import JudgedLists

FINALISTS = 4
"""Merges that all searches look at."""
Judge = Callable[[FusionConfig], JudgedLists]
"""Gives some windows under a merge."""


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
    """

    tried: tuple[TriedMerge, ...]
    chosen: FusionConfig
    static: StaticMixture


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

    Every merge is searched on the grid. The further searches take longer, so they are for the `FINALISTS` merges whose weights
    are best on validation windows so far; the winner is among those.

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

    def search(fusion: FusionConfig, further: Sequence[Baseline]) -> StaticMixture:
        return best_static_mixture(policy(fusion), valid(fusion), recallers, grid_steps, seed, further)

    def valid_ndcg(number: int) -> float:
        return found[number].best.valid_ndcg

    numbers = range(len(merges))
    found = {number: search(merges[number], ()) for number in numbers} if len(merges) > FINALISTS else {}
    finalists = sorted(sorted(numbers, key=valid_ndcg, reverse=True)[:FINALISTS] if found else numbers)
    found |= {number: search(merges[number], searches) for number in finalists}
    chosen = max(finalists, key=valid_ndcg)
    tried = tuple(TriedMerge(merges[number], found[number].best) for number in numbers)
    return MergeSearch(tried, merges[chosen], found[chosen])
