"""The split: cuts by hand, windows, planted leaks, and what holds for any sequences and any split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softgrpo.common.records import SPLIT_PARTS, Corpus, Part, Windows
from softgrpo.common.training_part import training_counts
from softgrpo.config import DataConfig, SplitConfig
from softgrpo.data.corpus import read_corpus
from softgrpo.data.windows import (
    check_no_leak,
    history_of,
    later_training_share,
    load_windows,
    make_windows,
    part_ends,
    targets_of,
    tied_target_share,
    write_windows,
)
from softgrpo.errors import DataError, LeakageError
from tests.softgrpo.data.cases import corpus_of, windows_of

RECORD, POLICY, VALID, TEST = SPLIT_PARTS


def user_of(*lengths: int) -> Corpus:
    """Returns users with items 0..n-1 in this order."""
    return corpus_of([list(range(length)) for length in lengths])


def rows(windows: Windows, user: int = 0) -> list[tuple[Part, int, int]]:
    """Returns one user's windows as (part, start, end)."""
    return [
        (Part(part), int(start), int(end))
        for owner, part, start, end in zip(windows.user, windows.part, windows.start, windows.end, strict=True)
        if owner == user
    ]


@pytest.mark.parametrize(
    ("length", "ends"),
    [
        (1, [0, 0, 0, 1]),  # 0.6, 0.8, 0.9
        (2, [1, 1, 1, 2]),  # 1.2, 1.6, 1.8
        (3, [1, 2, 2, 3]),  # 1.8, 2.4, 2.7
        (4, [2, 3, 3, 4]),  # 2.4, 3.2, 3.6
        (5, [3, 4, 4, 5]),  # 3, 4, 4.5
        (6, [3, 4, 5, 6]),  # 3.6, 4.8, 5.4
        (7, [4, 5, 6, 7]),  # 4.2, 5.6, 6.3
        (9, [5, 7, 8, 9]),  # 5.4, 7.2, 8.1
        (10, [6, 8, 9, 10]),
        (100, [60, 80, 90, 100]),
    ],
)
def test_ratio_cuts(length: int, ends: list[int]) -> None:
    assert part_ends(user_of(length), SplitConfig()).tolist() == [ends]


def test_ratio_cuts_do_not_suffer_from_floating_point() -> None:
    split = SplitConfig(recaller=0.7, policy=0.1, valid=0.1)
    assert 0.7 + 0.1 + 0.1 < 0.9
    assert part_ends(user_of(10), split).tolist() == [[7, 8, 9, 10]]


def test_leave_last_cuts() -> None:
    assert part_ends(user_of(4, 7), SplitConfig(method="leave_last")).tolist() == [[1, 2, 3, 4], [4, 5, 6, 7]]
    with pytest.raises(DataError, match=r"a user with 3 items.*data.min_user_items.*\[DATA-013\]"):
        part_ends(user_of(7, 3), SplitConfig(method="leave_last"))


def test_global_time_cuts() -> None:
    """Times 0..9: the quantiles are 0.6 * 9 = 5.4, 0.8 * 9 = 7.2 and 0.9 * 9 = 8.1, the same for both users."""
    corpus = corpus_of([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]], [[0, 1, 2, 3, 9], [4, 5, 6, 7, 8]])
    assert part_ends(corpus, SplitConfig(method="global_time")).tolist() == [[4, 4, 4, 5], [2, 4, 5, 5]]
    with pytest.raises(DataError, match=r"data.time_field.*\[DATA-014\]"):
        part_ends(user_of(5), SplitConfig(method="global_time"))


def test_global_time_puts_equal_times_on_one_side() -> None:
    """Times 1, 1, 1, 2, 2: the quantiles are at places 2.4, 3.2 and 3.6, so 1.4, 2 and 2; earlier times lie before a cut."""
    corpus = corpus_of([[0, 1, 2, 3, 4]], [[1, 1, 1, 2, 2]])
    assert part_ends(corpus, SplitConfig(method="global_time")).tolist() == [[3, 3, 3, 5]]


def test_windows_of_a_long_sequence() -> None:
    """n = 100: training to 60 - 10 = 50; two record windows, four policy windows, the first of valid and of test."""
    windows = make_windows(user_of(100), SplitConfig())
    assert windows.train_end.tolist() == [50]
    assert rows(windows) == [
        (RECORD, 50, 55), (RECORD, 55, 60),
        (POLICY, 60, 65), (POLICY, 65, 70), (POLICY, 70, 75), (POLICY, 75, 80),
        (VALID, 80, 85), (TEST, 90, 95),
    ]  # fmt: skip


def test_windows_shorten_at_the_end_of_their_part() -> None:
    """n = 33: cuts at 19.8, 26.4 and 29.7; record holds back 3.3, so training ends at 19 - 3 = 16."""
    windows = make_windows(user_of(33), SplitConfig())
    assert windows.train_end.tolist() == [16]
    assert rows(windows) == [(RECORD, 16, 19), (POLICY, 19, 24), (POLICY, 24, 26), (VALID, 26, 29), (TEST, 29, 33)]


def test_the_latest_policy_windows_are_taken() -> None:
    windows = make_windows(user_of(100), SplitConfig(windows_per_user=2, window=3, record=0.3))
    # policy 60..80 in threes: the last two begin at 75 and 78; record 30..60: at 54 and 57
    assert rows(windows)[:4] == [(RECORD, 54, 57), (RECORD, 57, 60), (POLICY, 75, 78), (POLICY, 78, 80)]
    assert windows.train_end.tolist() == [30]


def test_a_part_without_targets_gives_no_window() -> None:
    """n = 5 has no valid part; its neighbour has all."""
    windows = make_windows(user_of(5, 100), SplitConfig(record=0))
    assert rows(windows) == [(POLICY, 3, 4), (TEST, 4, 5)]
    assert windows.train_end.tolist() == [3, 60]
    assert windows.of(VALID).tolist() == [6]


def test_record_leaves_training_one_item() -> None:
    """n = 10, record 0.55: 5 of the 6 items of the recaller part may be held back; n = 2 has one, which stays."""
    windows = make_windows(user_of(10, 2), SplitConfig(record=0.59))
    assert windows.train_end.tolist() == [1, 1]
    assert rows(windows)[0] == (RECORD, 1, 6)
    assert rows(windows, 1) == [(TEST, 1, 2)]


def test_leave_last_windows() -> None:
    windows = make_windows(user_of(4, 20), SplitConfig(method="leave_last", window=1))
    assert rows(windows) == [(POLICY, 1, 2), (VALID, 2, 3), (TEST, 3, 4)]
    assert rows(windows, 1) == [(RECORD, 15, 16), (RECORD, 16, 17), (POLICY, 17, 18), (VALID, 18, 19), (TEST, 19, 20)]
    assert windows.train_end.tolist() == [1, 15]  # 20 - 3 - floor(0.1 * 20)


def test_every_window_has_a_history() -> None:
    """A newcomer behind the first cut: their first item is no target, the others are."""
    corpus = corpus_of([[0, 1, 2, 3, 4, 5], [0, 1, 2]], [[0, 1, 2, 3, 4, 6], [5, 7, 8]])
    windows = make_windows(corpus, SplitConfig(method="global_time", recaller=0.5, policy=0.2, valid=0.2, record=0))
    assert part_ends(corpus, SplitConfig(method="global_time", recaller=0.5, policy=0.2, valid=0.2)).tolist() == [
        [4, 5, 6, 6],  # cuts at 0.5, 0.7 and 0.9 of 8: 4, 5.6 and 7.2
        [0, 1, 2, 3],
    ]
    assert rows(windows, 1) == [(VALID, 1, 2), (TEST, 2, 3)]
    assert windows.train_end.tolist() == [4, 0]


def test_a_split_without_some_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"valid window.*\[DATA-015\]"):
        make_windows(user_of(5), SplitConfig())
    with pytest.raises(DataError, match=r"policy window.*\[DATA-015\]"):
        make_windows(user_of(2), SplitConfig())


def test_targets_and_histories() -> None:
    corpus = corpus_of([[5, 6, 7], [9, 8, 4, 3]])
    windows = windows_of([(0, POLICY, 1, 2), (1, POLICY, 1, 3), (1, TEST, 3, 4)], [1, 1])
    assert targets_of(corpus, windows).tolist() == [[6, -1], [8, 4], [3, -1]]
    assert [history_of(corpus, windows, window).tolist() for window in range(3)] == [[5], [9], [9, 8, 4]]


def test_tied_targets() -> None:
    """Targets at times 2, 3, 3 | 5: the two at 3 are tied; another user's 5 ties with nothing."""
    corpus = corpus_of([[0, 1, 2, 3], [0, 1]], [[1, 2, 3, 3], [3, 5]])
    windows = windows_of([(0, TEST, 1, 4), (1, TEST, 1, 2)], [1, 1])
    assert tied_target_share(corpus, windows) == 2 / 4
    # a target also is tied where its twin is in the history
    assert tied_target_share(corpus, windows_of([(0, TEST, 3, 4)], [3, 1])) == 1
    assert tied_target_share(corpus, windows, Part.TEST) == 2 / 4
    assert np.isnan(tied_target_share(corpus, windows, Part.VALID)), "there is no such target"
    assert np.isnan(tied_target_share(user_of(5), windows_of([(0, TEST, 3, 4)], [3])))


def test_training_counts() -> None:
    """Trained on are 0, 1 of the first user and 1 of the second; item 3 occurs behind the training part only."""
    corpus = corpus_of([[0, 1, 3], [1, 2]])
    windows = windows_of([(0, Part.TEST, 2, 3), (1, Part.TEST, 1, 2)], [2, 1])
    assert training_counts(corpus, windows).tolist() == [0 + 1, 2, 0, 0]


def test_later_training_interactions() -> None:
    """Training times: 1, 2, 5 and 30. First targets at 4 and 30: later are 5 and 30, then none (an equal time is not later).

    A window of another part and later targets do not count.
    """
    corpus = corpus_of([[0, 1, 2, 3], [3, 2, 0, 1]], [[1, 2, 4, 50], [5, 30, 30, 40]])
    windows = windows_of([(0, Part.TEST, 2, 4), (1, Part.VALID, 1, 2), (1, Part.TEST, 2, 4)], [2, 2])
    assert later_training_share(corpus, windows) == (2 / 4 + 0) / 2
    assert np.isnan(later_training_share(replace(corpus, time=np.full(8, np.nan)), windows))
    assert np.isnan(later_training_share(corpus, windows_of([(0, Part.VALID, 2, 4)], [2, 2])))


def test_a_split_by_time_trains_on_nothing_later() -> None:
    times = [[1, 2, 6, 8, 10], [3, 4, 5, 7, 9], [1, 3, 5, 7, 9]]
    corpus = corpus_of([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [5, 4, 3, 2, 0]], times)
    split = SplitConfig(method="global_time", recaller=0.4, policy=0.2, valid=0.2)
    assert later_training_share(corpus, make_windows(corpus, split)) == 0


def test_planted_leaks_are_caught() -> None:
    corpus = user_of(100, 33)
    windows = make_windows(corpus, SplitConfig())
    check_no_leak(corpus, windows)
    with pytest.raises(LeakageError, match=r"^1 of \d+ targets are in the recallers' training input.*\[LEAKAGE-001\]"):
        check_no_leak(corpus, replace(windows, train_end=windows.train_end + np.array([0, 1], dtype=np.int32)))
    with pytest.raises(LeakageError, match=r"^1 targets belong to two windows.*\[LEAKAGE-002\]"):
        check_no_leak(corpus, windows_of([(0, VALID, 80, 85), (0, TEST, 84, 89)], [50, 16]))
    repeated = corpus_of([[0, 1, 2, 3, 0]])  # the target is another row of the file, but the same pair
    with pytest.raises(LeakageError, match=r"^1 of 1 targets.*\[LEAKAGE-001\]"):
        check_no_leak(repeated, windows_of([(0, TEST, 4, 5)], [2]))


def test_round_trip(tmp_path: Path) -> None:
    windows = make_windows(user_of(100, 33), SplitConfig())
    write_windows(tmp_path, windows)
    again = load_windows(tmp_path)
    for name in ("user", "part", "start", "end", "train_end"):
        np.testing.assert_array_equal(getattr(again, name), getattr(windows, name))
        assert getattr(again, name).dtype == getattr(windows, name).dtype


@st.composite
def splits(draw: st.DrawFn) -> SplitConfig:
    """Any split in twentieths."""
    recaller, policy, valid = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return SplitConfig(
        method=draw(st.sampled_from(["ratio", "leave_last", "global_time"])),
        recaller=recaller / 20,
        policy=policy / 20,
        valid=valid / 20,
        record=draw(st.integers(0, recaller - 1)) / 20,
        window=draw(st.integers(1, 6)),
        windows_per_user=draw(st.integers(1, 4)),
    )


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """Up to 6 users with 8..25 distinct items each and clocks with many ties."""
    items = draw(st.lists(st.lists(st.integers(0, 30), min_size=8, max_size=25, unique=True), min_size=1, max_size=6))
    return corpus_of(items, [sorted(draw(st.integers(0, 40)) for _ in row) for row in items])


@settings(deadline=None)
@given(corpora(), splits())
def test_nothing_leaks_whatever_the_split(corpus: Corpus, split: SplitConfig) -> None:
    """Written with Python sets of (user, item), without `check_no_leak`, which must agree."""
    try:
        windows = make_windows(corpus, split)
    except DataError:
        assume(False)
    check_no_leak(corpus, windows)
    ends = part_ends(corpus, split)
    trained = {
        (user, int(item))
        for user in range(corpus.num_users)
        for item in corpus.sequence(user)[: windows.train_end[user]]
    }
    seen: dict[tuple[int, int], Part] = {}
    counts: dict[tuple[int, Part], int] = {}
    previous = (-1, -1)
    for window, padded in enumerate(targets_of(corpus, windows).tolist()):
        user, part = int(windows.user[window]), Part(windows.part[window])
        start, end = int(windows.start[window]), int(windows.end[window])
        targets = [item for item in padded if item >= 0]
        history = history_of(corpus, windows, window).tolist()
        assert history + targets == corpus.sequence(user)[:end].tolist()  # histories precede targets, nothing between
        assert history
        assert 1 <= len(targets) <= split.window
        begin = windows.train_end[user] if part is Part.RECORD else ends[user, part - 1]
        assert begin <= start < end <= ends[user, part]  # inside its part
        for pair in ((user, item) for item in targets):
            assert pair not in trained
            assert pair not in seen
            seen[pair] = part
        assert (user, start) > previous  # in time order per user
        previous = (user, start)
        counts[user, part] = counts.get((user, part), 0) + 1
    for (_, part), count in counts.items():
        assert count <= (1 if part in (VALID, TEST) else split.windows_per_user)
    for user in range(
        corpus.num_users
    ):  # every user with a valid or test part of at least one possible target is evaluated
        for part in (VALID, TEST):
            assert ((user, part) in counts) == (ends[user, part] > max(ends[user, part - 1], 1))


@settings(max_examples=40, deadline=None)
@given(corpora(), splits(), st.data())
def test_any_planted_leak_is_caught(corpus: Corpus, split: SplitConfig, data: st.DataObject) -> None:
    try:
        windows = make_windows(corpus, split)
    except DataError:
        assume(False)
    window = data.draw(st.integers(0, len(windows) - 1))
    longer = windows.train_end.copy()
    longer[windows.user[window]] = windows.start[window] + 1
    with pytest.raises(LeakageError):
        check_no_leak(corpus, replace(windows, train_end=longer))


def test_ml_100k_has_windows_for_all_users() -> None:
    corpus = read_corpus(DataConfig(), 42)
    windows = make_windows(corpus, SplitConfig())
    check_no_leak(corpus, windows)
    for part in (POLICY, VALID, TEST):
        assert len(np.unique(windows.user[windows.of(part)])) == 943
    assert len(windows.of(VALID)) == len(windows.of(TEST)) == 943
