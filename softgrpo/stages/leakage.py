"""Whether anything from behind a window's history is visible before it: the checks that can fail a run.

The checks look at what was stored, and they work out anew what should be there, in another way than what made it. Numbers and
prompts are checked in `softgrpo.stages.hiding`. Legend: W windows, M recallers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import SplitConfig
from softgrpo.data.windows import make_windows, targets_of
from softgrpo.errors import LeakageError
from softgrpo.policy.features import Features, ListNumbers
from softgrpo.recallers.candidate_checks import Positions
from softgrpo.stages.views import View

DEFECT = "This is a defect, not a matter of settings: keep the stored stages and report it"
TOLERANCE = 1e-4


def check_training_input(
    name: str, users: NDArray[np.int32], items: NDArray[np.int32], corpus: Corpus, windows: Windows
) -> int:  # fmt: skip
    """Checks that a recaller was trained on no target, by pairs of user and item.

    Args:
        name: The recaller.
        users: (n,) users of the pairs it was given.
        items: (n,) items of the pairs it was given.
        corpus: All interactions.
        windows: All windows.

    Returns:
        How many targets were looked for.

    Raises:
        LeakageError: It was given a target of some window, or anything else from behind its own part of a user's sequence.
    """
    targets = targets_of(corpus, windows)
    real = targets >= 0
    owners = np.broadcast_to(windows.user[:, None], targets.shape)
    target_pairs = owners[real].astype(np.int64) * corpus.num_items + targets[real]
    training_pairs = users.astype(np.int64) * corpus.num_items + items
    leaked = np.isin(target_pairs, training_pairs)
    if leaked.any():
        window = int(np.nonzero(real)[0][np.flatnonzero(leaked)[0]])
        raise LeakageError(
            f"{name} was trained on {int(leaked.sum())} of {len(target_pairs)} targets, "
            f"the first in {named(window, corpus, windows)}",
            "Recallers train on nothing that later serves as a target",
            DEFECT,
            code="LEAKAGE-005",
        )
    late = Positions(corpus)(users, items) >= windows.train_end[users]
    if late.any():
        first = int(np.flatnonzero(late)[0])
        user, item = corpus.users[Columns.Token][users[first]], corpus.items[Columns.Token][items[first]]
        raise LeakageError(
            f"{name} was trained on {int(late.sum())} pairs from behind its part, the first item {item!r} of user {user!r}",
            "Recallers train on the beginning of each user's sequence and on nothing else",
            DEFECT,
            code="LEAKAGE-006",
        )
    return len(target_pairs)


def check_nobody_left_out(corpus: Corpus, windows: Windows, split: SplitConfig) -> int:
    """Checks that the windows are all those that the split makes, whatever came of them.

    Returns:
        How many users have a test window.

    Raises:
        LeakageError: There are fewer, more or other ones.
    """
    check_same_windows(windows, make_windows(corpus, split))
    return len(np.unique(windows.user[windows.of(Part.TEST)]))


def check_same_windows(windows: Windows, expected: Windows) -> None:
    """Checks that windows are those that they have to be, in their order.

    Raises:
        LeakageError: There are fewer, more or other ones, or they are in another order.
    """
    found, wanted = (np.column_stack([each.user, each.part, each.start, each.end]) for each in (windows, expected))
    if not np.array_equal(found, wanted):
        stored, of_split = (set(map(tuple, each.tolist())) for each in (found, wanted))
        lost = len({row[0] for row in of_split} - {row[0] for row in stored})
        raise LeakageError(
            f"{len(of_split - stored)} windows are missing ({lost} users have none) "
            f"and {len(stored - of_split)} are not of the split; or the order is another",
            "Windows follow from positions alone; leaving some out by what the recallers found would choose the users by outcome",
            DEFECT,
            code="LEAKAGE-007",
        )


def check_everyone_is_tested(tested: NDArray[np.integer], windows: Windows) -> int:
    """Checks that an evaluation is about every test window, once.

    Args:
        tested: Numbers of the windows that one method was evaluated on.
        windows: All windows.

    Returns:
        How many there are.

    Raises:
        LeakageError: Some are left out, or repeated.
    """
    test_windows = windows.of(Part.TEST)
    if not np.array_equal(np.sort(tested), test_windows):
        raise LeakageError(
            f"{len(tested)} evaluated windows, "
            f"{len(np.setdiff1d(test_windows, tested))} of {len(test_windows)} test windows left out",
            "Every user that has a test window is evaluated, once",
            DEFECT,
            code="LEAKAGE-008",
        )
    return len(test_windows)


def check_track_record(features: Features, windows: Windows, before: int = 0) -> int:
    """Checks that each window's track record is made of the outcomes inside its history, and of no other.

    Args:
        features: Of W windows.
        windows: All windows that their users have.
        before: How many windows come before these, whose numbers messages tell.

    Returns:
        How many earlier outcomes the records hold.

    Raises:
        LeakageError: A record counts, or tells, something else.
    """
    count = np.zeros(len(windows))  # (W,)
    total = np.zeros(features.ndcg.shape)  # (W, M)
    inverse_rank = np.zeros(features.ndcg.shape)
    for own, other in _pairs_of_a_user(windows):
        inside = windows.end[other] <= windows.start[own]
        own, other = own[inside], other[inside]
        count[own] += 1
        total[own] += features.ndcg[other]
        inverse_rank[own] += 1.0 / features.best_rank[other]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, rank = total / count[:, None], count[:, None] / inverse_rank
    wrong = features.track_count != count
    wrong |= ~np.isclose(features.track_ndcg, mean, atol=TOLERANCE, equal_nan=True).all(1)
    wrong |= ~np.isclose(features.track_rank, rank, rtol=TOLERANCE, equal_nan=True).all(1)
    if wrong.any():
        window = before + int(np.flatnonzero(wrong)[0])
        raise LeakageError(
            f"The track records of {int(wrong.sum())} windows, window {window} the first, tell of other outcomes than those before",
            "A track record holds only outcomes whose last target lies inside the present history",
            DEFECT,
            code="LEAKAGE-009",
        )
    return int(count.sum())


def check_shapes(features: Features, own: ListNumbers, view: View) -> None:
    """Checks that what is stored of the shape of lists follows from the lists, whose sizes are told by those of policy windows.

    Args:
        features: Of all windows.
        own: What is known of the lists of the windows of a view.
        view: The windows.

    Raises:
        LeakageError: Something else is stored.
    """
    strength, peak = own.strength_and_peak(view.windows)
    for name, expected in (("strength", strength), ("peak", peak), ("overlap", own.overlap)):
        stored = getattr(features, name)[view.rows]
        wrong = ~np.isclose(stored, expected, atol=TOLERANCE, equal_nan=True).all(1)
        if wrong.any():
            window = view.rows.start + int(np.flatnonzero(wrong)[0])
            raise LeakageError(
                f"The {name} of the lists of {int(wrong.sum())} windows, window {window} the first, is not what the lists say",
                "The shape of a list is compared with those of the policy windows, and with nothing else",
                DEFECT,
                code="LEAKAGE-019",
            )


def _pairs_of_a_user(windows: Windows) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Gives all pairs of different windows of one user, as two arrays of window numbers; windows are sorted by user."""
    most = int(np.bincount(windows.user).max(initial=0))
    for distance in range(1, most):
        first = np.arange(len(windows) - distance)
        same = first[windows.user[first] == windows.user[first + distance]]
        yield same, same + distance
        yield same + distance, same


def named(window: int, corpus: Corpus, windows: Windows) -> str:
    """Returns what a message calls a window."""
    user = corpus.users[Columns.Token].iloc[windows.user[window]]
    return f"a {Part(windows.part[window]).name.lower()} window of user {user!r} (behind {windows.start[window]} items)"
