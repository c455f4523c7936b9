"""Cross-fitting: more policy windows, from the end of the recaller part, whose lists come from recallers fitted without it.

Users are cut into parts. The recallers of a part train on what the recallers of a run do, less the tails of that part's users; the
windows in these tails are what they make lists for. So a run's own recallers, and all that is validated and tested, stay as they
are. Legend: U users, W windows of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import SplitConfig
from softgrpo.data.windows import check_no_leak
from softgrpo.errors import DataError, LeakageError

FEWEST_USERS = 10
"""Users with an earlier window that each part needs: how strong a list is, is told by its place among those of the part."""
_DEFECT = "This is a defect of the split: keep the data and report it"


def cross_fit(windows: Windows, split: SplitConfig, seed: int) -> tuple[Windows, ...]:
    """Returns the earlier windows of each part of the users, as many as `split.cross_fit` has parts; none where it is 0.

    A user's tail is the end of the training part: as long as `windows_per_user` windows, but at most half of it, so that the
    recallers of the part still know the user, and each history has at least one item.

    Args:
        windows: All windows of the split.
        split: How it was cut.
        seed: Of the parts.

    Returns:
        For each part, windows `EARLIER` sorted by (user, start). Their `train_end` is what the recallers of the part may train on:
        up to the tail of the users of the part, and the usual training part of all others.

    Raises:
        DataError: A part has fewer users with an earlier window than `FEWEST_USERS`.
    """
    if not split.cross_fit:
        return ()
    ends = windows.train_end
    tails = np.minimum(split.windows_per_user * split.window, ends // 2)  # (U,)
    cut = np.flatnonzero(tails)
    if len(cut) < FEWEST_USERS * split.cross_fit:
        most = len(cut) // FEWEST_USERS
        raise DataError(
            f"split.cross_fit = {split.cross_fit} with {len(cut)} users who have two training items or more",
            f"each part needs {FEWEST_USERS} of them",
            f"Give {f'2 to {most} parts' if most > 1 else '0, which is off'}, or bring more users",
            code="DATA-039",
        )
    part_of = np.full(len(ends), -1)  # (U,) all parts equally large, but for one user
    part_of[np.random.default_rng([seed, split.cross_fit]).permutation(cut)] = np.arange(len(cut)) % split.cross_fit
    return tuple(_of_part(windows, split, np.where(part_of == part, tails, 0)) for part in range(split.cross_fit))


def _of_part(windows: Windows, split: SplitConfig, tails: NDArray[np.int32]) -> Windows:
    """Returns the earlier windows of one part; the tails (U,) of all other users are empty."""
    begins = windows.train_end - tails
    counts = -(-tails // split.window)  # (U,)
    user = np.repeat(np.arange(len(counts)), counts)  # (W,)
    within = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = begins[user] + within * split.window
    return Windows(
        user=user.astype(np.int32),
        part=np.full(len(user), Part.EARLIER, np.int8),
        start=start.astype(np.int32),
        end=np.minimum(start + split.window, windows.train_end[user]).astype(np.int32),
        train_end=begins.astype(np.int32),
    )


def all_windows(windows: Windows, parts: Sequence[Windows]) -> Windows:
    """Returns the windows of the split and behind them those of each part; the former keep their numbers.

    Args:
        windows: All windows of the split, whose `train_end` stays.
        parts: From `cross_fit`.
    """
    names = ("user", "part", "start", "end")
    return replace(
        windows, **{name: np.concatenate([getattr(each, name) for each in (windows, *parts)]) for name in names}
    )


def check_parts(corpus: Corpus, windows: Windows, parts: Sequence[Windows]) -> None:
    """Checks that no earlier window has a target that the recallers of its part see, or that another window has too.

    Args:
        corpus: All interactions.
        windows: All windows of the split.
        parts: From `cross_fit`.

    Raises:
        LeakageError: See `softgrpo.data.windows.check_no_leak`; or a user is in two parts, or an earlier window ends after the
            training part.
    """
    for part in parts:
        check_no_leak(corpus, part)
        late = part.end > windows.train_end[part.user]
        if late.any():
            raise LeakageError(
                f"{int(late.sum())} earlier windows end after the training part",
                "Cross-fitting adds windows before all others",
                _DEFECT,
                code="LEAKAGE-016",
            )
    users = np.concatenate([np.unique(part.user) for part in parts]) if parts else np.empty(0)
    if len(np.unique(users)) < len(users):
        raise LeakageError(
            f"{len(users) - len(np.unique(users))} users are in two parts",
            "Cross-fitting cuts the users into parts, and each has its own recallers",
            _DEFECT,
            code="LEAKAGE-017",
        )
