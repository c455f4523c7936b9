"""Whether anything from behind a window's history is visible before it: every check that can fail a run.

The checks look at what was stored, and they work out anew what should be there, in another way than what made it. Prompts are
checked by hiding: in a world whose items behind a window's history are others, the window's prompt must be the same.
Legend: W windows, M recallers, D depth, U users, N interactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.config import PromptConfig, SplitConfig
from softgrpo.data.windows import make_windows, targets_of
from softgrpo.errors import LeakageError
from softgrpo.policy.features import Features, make_features
from softgrpo.policy.prompts import PromptFormatter, PromptParts
from softgrpo.recallers.candidates import Positions

_DEFECT = "This is a defect, not a matter of settings: keep the stored stages and report it"
_TOLERANCE = 1e-4


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
            f"the first in {_named(window, corpus, windows)}",
            "Recallers train on nothing that later serves as a target",
            _DEFECT,
            code="LEAKAGE-005",
        )
    late = Positions(corpus)(users, items) >= windows.train_end[users]
    if late.any():
        first = int(np.flatnonzero(late)[0])
        user, item = corpus.users[Columns.Token][users[first]], corpus.items[Columns.Token][items[first]]
        raise LeakageError(
            f"{name} was trained on {int(late.sum())} pairs from behind its part, the first item {item!r} of user {user!r}",
            "Recallers train on the beginning of each user's sequence and on nothing else",
            _DEFECT,
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
    expected = make_windows(corpus, split)
    stored, of_split = (
        set(zip(each.user.tolist(), each.part.tolist(), each.start.tolist(), each.end.tolist(), strict=True))
        for each in (windows, expected)
    )
    if stored != of_split:
        lost = len({row[0] for row in of_split} - {row[0] for row in stored})
        raise LeakageError(
            f"{len(of_split - stored)} windows are missing ({lost} users have none) "
            f"and {len(stored - of_split)} are not of the split",
            "Windows follow from positions alone; leaving some out by what the recallers found would choose the users by outcome",
            _DEFECT,
            code="LEAKAGE-007",
        )
    return len(np.unique(windows.user[windows.of(Part.TEST)]))


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
            _DEFECT,
            code="LEAKAGE-008",
        )
    return len(test_windows)


def check_track_record(features: Features, windows: Windows) -> int:
    """Checks that each window's track record is made of the outcomes inside its history, and of no other.

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
    wrong |= ~np.isclose(features.track_ndcg, mean, atol=_TOLERANCE, equal_nan=True).all(1)
    wrong |= ~np.isclose(features.track_rank, rank, rtol=_TOLERANCE, equal_nan=True).all(1)
    if wrong.any():
        window = int(np.flatnonzero(wrong)[0])
        raise LeakageError(
            f"The track records of {int(wrong.sum())} windows, window {window} the first, tell of other outcomes than those before",
            "A track record holds only outcomes whose last target lies inside the present history",
            _DEFECT,
            code="LEAKAGE-009",
        )
    return int(count.sum())


def _pairs_of_a_user(windows: Windows) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Gives all pairs of different windows of one user, as two arrays of window numbers; windows are sorted by user."""
    most = int(np.bincount(windows.user).max(initial=0))
    for distance in range(1, most):
        first = np.arange(len(windows) - distance)
        same = first[windows.user[first] == windows.user[first + distance]]
        yield same, same + distance
        yield same + distance, same


def check_prompts(
    prompts: Sequence[PromptParts],
    config: PromptConfig,
    corpus: Corpus,
    windows: Windows,
    lists: CandidateLists,
    k: int,
    seed: int,
) -> int:
    """Checks that no prompt tells anything from behind its window's history.

    All items and times from a window's start on are replaced, labels and track records are made again from them, and so is the
    prompt. A prompt that knew a target, or the outcome of its own or of a later window, would differ.

    Args:
        prompts: The W stored prompts.
        config: What prompts contain.
        corpus: All interactions.
        windows: All windows.
        lists: Candidate lists of all windows.
        k: Cut-off of the labels.
        seed: Of the items that stand in.

    Returns:
        How many prompts were compared.

    Raises:
        LeakageError: There is not one prompt per window, or one is another in its hidden world.
    """
    if len(prompts) != len(windows):
        raise LeakageError(
            f"{len(prompts)} prompts for {len(windows)} windows",
            "Every window has one, whatever came of it",
            _DEFECT,
            code="LEAKAGE-010",
        )
    first = np.searchsorted(windows.user, windows.user)
    ordinal = np.arange(len(windows)) - first  # (W,) which of its user's windows each is
    for turn in range(int(ordinal.max(initial=-1)) + 1):
        rows = np.flatnonzero(ordinal == turn)
        hidden = _hide(corpus, windows, rows, np.random.default_rng([seed, turn]))
        features = make_features(lists, windows, targets_of(hidden, windows), k)
        formatter = PromptFormatter(config, hidden, windows, lists, features)
        for window in rows.tolist():
            if formatter.parts(window) != prompts[window]:
                raise LeakageError(
                    f"The prompt of {_named(window, corpus, windows)} changes with what lies behind the window's history",
                    "Nothing in a prompt comes from behind the window's history",
                    _DEFECT,
                    code="LEAKAGE-011",
                )
    return len(prompts)


def _hide(corpus: Corpus, windows: Windows, rows: NDArray[np.int64], rng: np.random.Generator) -> Corpus:
    """Returns a corpus with other items and times from the start of some windows on, one window of each user."""
    known = np.diff(corpus.offsets)  # (U,) positions that stay; all of a user's where none of the rows is theirs
    known[windows.user[rows]] = windows.start[rows]
    position = np.arange(len(corpus.item)) - corpus.offsets[corpus.user]
    behind = position >= known[corpus.user]
    shift = rng.integers(1, max(corpus.num_items, 2), len(corpus.item))
    other = ((corpus.item + shift) % corpus.num_items).astype(np.int32)
    start = corpus.time[corpus.offsets[corpus.user]]  # a time that the data know
    return replace(corpus, item=np.where(behind, other, corpus.item), time=np.where(behind, start, corpus.time))


def _named(window: int, corpus: Corpus, windows: Windows) -> str:
    user = corpus.users[Columns.Token].iloc[windows.user[window]]
    return f"window {window} (user {user!r}, {Part(windows.part[window]).name.lower()}, behind {windows.start[window]} items)"
