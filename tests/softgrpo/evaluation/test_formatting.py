"""How numbers of a comparison are written."""

from __future__ import annotations

import math

import pytest

from softgrpo.evaluation.formatting import p_value, percent, signed, signed_interval


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0123, 4, "+0.0123"),
        (-0.0123, 4, "-0.0123"),
        (0.00004, 4, "0.0000"),
        (-0.00004, 4, "0.0000"),
        (-0.0, 4, "0.0000"),
        (-0.00006, 4, "-0.0001"),
        (-0.0004, 3, "0.000"),
        (12.0, 0, "+12"),
        (math.inf, 4, "+inf"),
        (math.nan, 4, ""),
    ],
)
def test_a_difference_that_rounds_to_zero_has_no_sign(value: float, digits: int, text: str) -> None:
    assert signed(value, digits) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.132, "+13.2%"), (-0.0004, "0.0%"), (0.0, "0.0%"), (-0.0006, "-0.1%"), (math.nan, "")]
)
def test_a_relative_difference_that_rounds_to_zero_has_no_sign(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_p_value_that_the_draws_bound_is_shown_as_a_bound() -> None:
    assert [p_value(0.0076), p_value(0.0076, bound=True), p_value(0.00001, bound=True)] == [
        "0.0076",
        "≤ 0.0076",
        "< 0.0001",
    ]
    assert p_value(float("nan"), bound=False) == ""


def test_an_interval_has_two_signs_or_none() -> None:
    assert signed_interval(-0.001, 0.0123) == "[-0.0010, +0.0123]"
    assert signed_interval(-0.00001, 0.0) == "[0.0000, 0.0000]"
    assert signed_interval(math.nan, math.nan) == ""
