"""What each recaller finds of the test windows' targets, and what no other finds.

Legend: W windows, M recallers, D depth, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softgrpo.policy.features import own_ranks


@dataclass(frozen=True)
class Coverage:
    """Targets that recallers find, counted over test windows.

    Attributes:
        recallers: The M names.
        targets: All targets.
        found: Those that some recaller finds.
        hits: (M,) targets in each recaller's list.
        unique: (M,) those of them that no other list of the window holds.
        shared: (M, M) targets that two lists hold; the diagonal is `hits`.
    """

    recallers: tuple[str, ...]
    targets: int
    found: int
    hits: tuple[int, ...]
    unique: tuple[int, ...]
    shared: tuple[tuple[int, ...], ...]

    @property
    def overlap(self) -> NDArray[np.float64]:
        """(M, M) share of a recaller's hits, by row, that another one finds too, by column; 0 without a hit."""
        shared = np.array(self.shared, dtype=np.float64)
        shares: NDArray[np.float64] = shared / np.maximum(np.diag(shared), 1)[:, None]
        return shares

    @property
    def sentence(self) -> str:
        """What is to be seen, in words."""
        missed = f"{self.targets - self.found:,} of {self.targets:,} targets are in no list"
        if not self.found:
            return f"No recaller finds a target: all {self.targets:,} are in no list."
        places = np.argsort(-np.array(self.unique), kind="stable")
        most, least = (int(place) for place in (places[0], places[-1]))
        return (
            f"{self.recallers[most]} alone finds {self.unique[most]:,} targets, {self.recallers[least]} alone "
            f"{self.unique[least]:,}; {missed}, and no weights can bring them up."
        )


def join_coverage(parts: Sequence[Coverage]) -> Coverage:
    """Returns the counts over all windows from those over some at a time, of the same recallers."""
    hits, unique = (np.sum([getattr(part, name) for part in parts], axis=0).tolist() for name in ("hits", "unique"))
    shared = np.sum([part.shared for part in parts], axis=0).tolist()
    return Coverage(
        recallers=parts[0].recallers,
        targets=sum(part.targets for part in parts),
        found=sum(part.found for part in parts),
        hits=tuple(hits),
        unique=tuple(unique),
        shared=tuple(map(tuple, shared)),
    )


def coverage_of(recallers: tuple[str, ...], items: NDArray[np.int32], targets: NDArray[np.int32]) -> Coverage:
    """Counts what lists find.

    Args:
        recallers: The M names.
        items: (W, M, D) lists, -1 behind the end of a shorter one.
        targets: (W, T), -1 behind the last.
    """
    found = np.isfinite(own_ranks(items, targets))  # (W, M, T)
    finders = found.sum(1)  # (W, T) how many lists hold a target
    alone = found & (finders == 1)[:, None, :]
    flat = found.transpose(1, 0, 2).reshape(found.shape[1], -1).astype(np.int64)
    return Coverage(
        recallers=recallers,
        targets=int((targets >= 0).sum()),
        found=int((finders > 0).sum()),
        hits=tuple(int(count) for count in found.sum((0, 2))),
        unique=tuple(int(count) for count in alone.sum((0, 2))),
        shared=tuple(tuple(int(count) for count in row) for row in flat @ flat.T),
    )
