"""The shift of inputs between policy, validation and test windows, planted and worked out by hand."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from softgrpo.common.records import Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.windows import make_windows, targets_of
from softgrpo.policy.blocks.block import Known
from softgrpo.policy.numbers import WindowNumbers
from softgrpo.policy.prompts import PromptFormatter
from softgrpo.policy.shift import InputShift, input_shifts, largest_first, load_shifts, save_shifts
from softgrpo.stages.data import report_shift
from softgrpo.stages.test import record_note
from tests.softgrpo.data.cases import corpus_of, windows_of
from tests.softgrpo.policy.cases import random_lists
from tests.support.whole import make_features, window_numbers


def planted(*columns: list[float]) -> tuple[WindowNumbers, Windows]:
    """Returns numbers "a", "b", ... of two policy windows, one validation and one test window, in this order."""
    parts = (Part.POLICY, Part.POLICY, Part.VALID, Part.TEST)
    windows = windows_of([(0, part, place + 1, place + 2) for place, part in enumerate(parts)], [1])
    return WindowNumbers(tuple("abc"[: len(columns)]), np.array(columns).T, np.ones((len(columns), 4))), windows


def test_shifts_have_the_sign_and_the_unit_of_policy_windows() -> None:
    """Policy windows have 0 and 4: mean 2, standard deviation 2. The number b is the same in both and has no unit."""
    first, second = input_shifts(*planted([0.0, 4, 5, -8], [1.0, 1, 2, 3]))
    assert (first.name, first.valid, first.test, first.largest) == ("a", 1.5, -5.0, 5.0)
    assert second == InputShift("b", 0.0, 0.0) and not second.is_large
    assert largest_first([second, first]) == (first, second)


def test_a_large_shift_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Policy windows have 0 and 2 (mean 1, spread 1): a is 0.6 off on validation windows, b exactly 0.5, c 2 on test windows."""
    columns = [0.0, 2, 1.6, 1], [0.0, 2, 1.5, 0.5], [0.0, 2, 1, -1]
    found = report_shift(input_shifts(*planted(*columns)))
    assert found == pytest.approx({"input_shift": 2, "input_shift_valid": 0.6, "input_shift_test": 2})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 of 3 numbers" in record.message and ": c (2.0), a (0.6). " in record.message
    caplog.clear()
    assert report_shift(input_shifts(*planted(columns[1])))["input_shift"] == 0.5
    assert not caplog.records


def test_stored_shifts_are_read_back_to_the_last_digit(tmp_path: Path) -> None:
    shifts = input_shifts(*planted([0.0, 3, 1 / 3, -0.1], [0.0, 7, 1e-9, 2 / 7], [1.0, 1, 2, 3]))
    save_shifts(tmp_path / "shifts.csv", shifts)
    assert load_shifts(tmp_path / "shifts.csv") == largest_first(shifts)
    odd = (InputShift("NA", 0.1, 0.2), InputShift('first, "last"', 0.0, 0.1))
    save_shifts(tmp_path / "shifts.csv", odd)
    assert load_shifts(tmp_path / "shifts.csv") == odd


def test_windows_of_cross_fitting_are_among_those_that_are_learnt_from() -> None:
    """Two policy windows have 0 and 0, two earlier ones 4 and 4: mean 2, standard deviation 2."""
    parts = (Part.POLICY, Part.POLICY, Part.VALID, Part.TEST, Part.EARLIER, Part.EARLIER)
    windows = windows_of([(0, part, place + 1, place + 2) for place, part in enumerate(parts)], [1])
    numbers = WindowNumbers(("a",), np.array([[0.0], [0], [4], [2], [4], [4]]), np.ones((1, 4)))
    assert input_shifts(numbers, windows) == (InputShift("a", 1.0, 0.0),)


# ---------------------------------------------------------------- what leave_last does, and what is left out


def settings(method: str, record: str = "auto") -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {"split": {"method": method, "window": 1}, "features": {"record": record, "popularity": False}}
    )


def described(config: ExperimentConfig) -> tuple[Known, WindowNumbers, list[str]]:
    """Returns users of whom one in four is long enough for a record before the policy window, their numbers and prompts."""
    rng = np.random.default_rng(0)
    corpus = corpus_of([rng.permutation(30)[: 14 if user % 4 == 0 else 5].tolist() for user in range(40)])
    windows = make_windows(corpus, config.split)
    lists = random_lists(len(windows), 30)
    known = Known(corpus, windows, lists, make_features(lists, windows, targets_of(corpus, windows), 5))
    numbers = window_numbers(known, config.told_features)
    formatter = PromptFormatter(config.told_prompt, corpus, windows, lists, known.features, numbers)
    return known, numbers, [formatter.parts(window).text() for window in range(len(windows))]


def test_leave_last_gives_records_to_few_policy_windows_and_to_all_others() -> None:
    """A quarter of the policy windows has a record, all validation and test windows do: (1 - 0.25) / sqrt(0.25 * 0.75) = 1.73."""
    known, numbers, prompts = described(settings("leave_last", "on"))
    assert (known.features.track_count[known.windows.of(Part.POLICY)] > 0).mean() == 0.25
    shift = {each.name: each for each in input_shifts(numbers, known.windows)}
    assert shift["has a record"].valid == shift["has a record"].test == pytest.approx(0.75 / math.sqrt(0.25 * 0.75))
    assert shift["has a record"].is_large and shift["windows in the record"].is_large
    assert all("items.\n" in prompt and "Track record: " in prompt for prompt in prompts)


def test_leave_last_leaves_out_the_record_and_the_length_of_the_history() -> None:
    """No input of which the protocol itself makes another one is left: neither in numbers nor in prompts."""
    config = settings("leave_last")
    known, numbers, prompts = described(config)
    full = described(settings("leave_last", "on"))[1]
    assert set(full.names) - set(numbers.names) == {
        *(f"{name}: {what}" for name in "AB" for what in ("NDCG in the record", "1 / rank in the record")),
        "history length", "windows in the record", "has a record",
    }  # fmt: skip
    assert np.array_equal(numbers.values, full.values[:, : len(numbers.names)])
    assert not any(each.is_large for each in input_shifts(numbers, known.windows))
    assert not any("record" in prompt or "User" in prompt for prompt in prompts), (
        "there is nothing else to say of a user"
    )
    assert prompts[0].startswith("History, newest last: ")
    assert record_note(config) == {"inputs left out": "track record and length of the history (features.record auto)"}


@pytest.mark.parametrize("method", ["ratio", "global_time"])
def test_other_splits_keep_all_inputs(method: str) -> None:
    config = settings(method)
    assert config.tells_record and config.told_prompt == config.prompt and record_note(config) == {}
    assert config.told_features.record == "on"
    assert not settings(method, "off").told_prompt.track_record


def test_a_switch_of_the_prompt_stays_off_where_records_are_told() -> None:
    config = ExperimentConfig.model_validate({"prompt": {"track_record": False}, "features": {"record": "on"}})
    assert not config.told_prompt.track_record and config.told_prompt.history_length
