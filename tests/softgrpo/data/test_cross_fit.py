"""More policy windows from the recaller part: where they lie, who may be trained on what, and when there are too few users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from softgrpo.common.names import name_fold, recaller_and_fold
from softgrpo.common.records import Part, Windows
from softgrpo.config import ExperimentConfig, SplitConfig
from softgrpo.data.cross_fit import all_windows, check_parts, cross_fit
from softgrpo.data.windows import make_windows
from softgrpo.errors import DataError, LeakageError
from tests.softgrpo.data.cases import corpus_of

USERS = 40


def cut(length: int, **settings: object) -> tuple[Windows, SplitConfig]:
    """Returns the windows of 40 users with so many items each, and how they were cut."""
    split = SplitConfig.model_validate(settings)
    return make_windows(corpus_of([list(range(length))] * USERS), split), split


def spans(part: Windows, user: int) -> list[tuple[int, int]]:
    """Returns the earlier windows of one user."""
    own = part.user == user
    return list(zip(part.start[own].tolist(), part.end[own].tolist(), strict=True))


def test_off_adds_nothing() -> None:
    windows, split = cut(30)
    assert cross_fit(windows, split, 1) == ()
    assert all(
        np.array_equal(getattr(all_windows(windows, ()), name), values) for name, values in vars(windows).items()
    )


def test_the_tail_is_as_long_as_the_windows_or_half_of_the_training_part() -> None:
    # ratio, 30 items: recaller part 18, of which 3 are held back for the record: 15 for training; half of them are 7
    windows, split = cut(30, cross_fit=2, window=5, windows_per_user=4)
    (first, second) = cross_fit(windows, split, 1)
    user = int(first.user[0])
    assert spans(first, user) == [(8, 13), (13, 15)]
    assert spans(second, user) == []
    assert first.train_end[user] == 8 and second.train_end[user] == 15
    # two windows of 3 are shorter than that half
    windows, split = cut(30, cross_fit=2, window=3, windows_per_user=2)
    (first, _) = cross_fit(windows, split, 1)
    assert spans(first, int(first.user[0])) == [(9, 12), (12, 15)]
    # leave_last, 7 items: the first 4 train, no record; half of them are 2 windows of one item
    windows, split = cut(7, cross_fit=2, window=1, method="leave_last")
    (first, _) = cross_fit(windows, split, 1)
    assert spans(first, int(first.user[0])) == [(2, 3), (3, 4)]


def test_every_user_is_in_one_part_and_the_seed_decides_which() -> None:
    windows, split = cut(30, cross_fit=3)
    parts = cross_fit(windows, split, 1)
    users = [set(part.user.tolist()) for part in parts]
    assert sorted(map(len, users)) == [13, 13, 14] and set.union(*users) == set(range(USERS))
    again = cross_fit(windows, split, 1)
    assert [set(part.user.tolist()) for part in again] == users
    assert [set(part.user.tolist()) for part in cross_fit(windows, split, 2)] != users
    for part, own in zip(parts, users, strict=True):
        assert (part.part == Part.EARLIER).all() and (part.start >= 1).all()
        shorter = np.flatnonzero(part.train_end != windows.train_end)
        assert set(shorter.tolist()) == own, "the training part of all others is whole"


def test_the_windows_of_the_split_keep_their_numbers() -> None:
    windows, split = cut(30, cross_fit=2)
    parts = cross_fit(windows, split, 1)
    together = all_windows(windows, parts)
    assert len(together) == len(windows) + sum(map(len, parts))
    for name in ("user", "part", "start", "end"):
        assert np.array_equal(getattr(together, name)[: len(windows)], getattr(windows, name))
    assert np.array_equal(together.train_end, windows.train_end)
    assert np.array_equal(together.of(Part.POLICY), windows.of(Part.POLICY))


def test_users_with_one_training_item_are_in_no_part() -> None:
    corpus = corpus_of([list(range(4))] * 5 + [list(range(9))] * 20)
    split = SplitConfig(method="leave_last", window=1, cross_fit=2)
    parts = cross_fit(make_windows(corpus, split), split, 1)
    assert {user for part in parts for user in part.user.tolist()} == set(range(5, 25))


def test_too_few_users_are_refused_with_what_would_do() -> None:
    windows, split = cut(30, cross_fit=5)
    with pytest.raises(DataError, match="cross_fit = 5 with 40 users") as error:
        cross_fit(windows, split, 1)
    assert error.value.code == "DATA-039" and "2 to 4 parts" in str(error.value)
    few = corpus_of([list(range(30))] * 12)
    split = SplitConfig(cross_fit=2)
    with pytest.raises(DataError, match="Give 0, which is off"):
        cross_fit(make_windows(few, split), split, 1)


def test_a_fault_of_the_parts_is_seen() -> None:
    corpus = corpus_of([list(range(30))] * USERS)
    windows, split = cut(30, cross_fit=2)
    first, second = cross_fit(windows, split, 1)
    check_parts(corpus, windows, [first, second])
    with pytest.raises(LeakageError) as error:
        check_parts(corpus, windows, [replace(first, train_end=windows.train_end), second])
    assert error.value.code == "LEAKAGE-001"
    with pytest.raises(LeakageError) as error:
        check_parts(corpus, windows, [first, first])
    assert error.value.code == "LEAKAGE-017"
    later = replace(first, start=first.end, end=first.end + 1)
    with pytest.raises(LeakageError) as error:
        check_parts(corpus, windows, [later, second])
    assert error.value.code in ("LEAKAGE-016", "LEAKAGE-002")


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"split": {"cross_fit": 1}}, "2 or more parts"),
        ({"split": {"cross_fit": 2, "method": "global_time"}}, "global_time"),
        ({"split": {"cross_fit": 2}, "recall": {"files": {"Mine": "mine.parquet"}}}, "Mine is a file"),
        ({"split": {"cross_fit": 2}, "features": {"user_vector": True}}, "user_vector"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(sections: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ExperimentConfig.model_validate(sections)


def test_records_are_left_out_because_few_of_these_windows_have_one() -> None:
    assert ExperimentConfig().tells_record
    assert not ExperimentConfig(split=SplitConfig(cross_fit=2)).tells_record


def test_names_of_parts_are_read_back() -> None:
    assert recaller_and_fold(name_fold("BPR", 12)) == ("BPR", 12)
    assert recaller_and_fold("BPR") == ("BPR", 0)
    assert recaller_and_fold("My-folder") == ("My-folder", 0)
