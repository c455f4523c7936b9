from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softgrpo.evaluation import significance
from softgrpo.evaluation.significance import holm, is_bound, paired_bootstrap, per_user, smallest_p


def test_windows_are_averaged_per_user_first() -> None:
    values = np.array([1.0, 0.0, 0.5, 0.0])
    assert per_user(values, np.array([7, 7, 3, 7])).tolist() == [0.5, (1 + 0 + 0) / 3]
    assert per_user(np.stack([values, 2 * values], 1), np.array([7, 7, 3, 7])).tolist() == [[0.5, 1], [1 / 3, 2 / 3]]


def test_interval_agrees_with_the_normal_approximation() -> None:
    differences = np.random.default_rng(1).normal(0.05, 1.0, 2000)
    result = paired_bootstrap(differences, 4000, 0.95, 0)
    half = 1.96 * differences.std() / math.sqrt(2000)
    assert result.mean[0] == pytest.approx(differences.mean())
    assert result.low[0] == pytest.approx(differences.mean() - half, abs=0.1 * half)
    assert result.high[0] == pytest.approx(differences.mean() + half, abs=0.1 * half)
    z = differences.mean() / (differences.std() / math.sqrt(2000))
    assert result.p[0] == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.02)


def test_p_values_are_never_zero_and_no_difference_gives_one() -> None:
    result = paired_bootstrap(np.stack([np.ones(50), np.zeros(50), -np.ones(50)], 1), 999, 0.95, 0)
    assert result.p == pytest.approx([2 * 1 / 1000, 1, 2 * 1 / 1000])
    assert result.low.tolist() == [1, 0, -1]


def test_chunks_and_company_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(2).normal(size=(40, 3))
    whole = paired_bootstrap(table, 500, 0.9, 5)
    monkeypatch.setattr(significance, "_CELLS", 999)
    chunked = paired_bootstrap(table, 500, 0.9, 5)
    alone = paired_bootstrap(table[:, 1], 500, 0.9, 5)
    assert np.allclose(whole.low, chunked.low, atol=1e-12)
    assert whole.high[1] == pytest.approx(alone.high[0], abs=1e-12)


def test_coverage_of_the_interval() -> None:
    generator = np.random.default_rng(3)
    tables = generator.exponential(1.0, size=(300, 80)) - 1.0  # true mean 0, skewed
    inside = [result.low[0] <= 0 <= result.high[0] for row in tables if (result := paired_bootstrap(row, 400, 0.95, 1))]
    assert 0.89 <= np.mean(inside) <= 0.98


def test_holm_by_hand() -> None:
    # sorted .01, .02, .04: .01 x 3 = .03, .02 x 2 = .04, .04 x 1 = .04
    assert holm(np.array([0.04, 0.01, math.nan, 0.02])) == pytest.approx([0.04, 0.03, math.nan, 0.04], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_p_values_at_the_floor_are_bounds_after_holm_too() -> None:
    """99 draws: no p is below 2 / 100. Of three tests two are there, both 0.06 after Holm; of 60 tests all would be 1."""
    least = smallest_p(3, 99)
    corrected = holm(np.array([0.02, math.nan, 0.5, 0.02]))
    assert least == pytest.approx(0.06) and corrected[[0, 2, 3]] == pytest.approx([0.06, 0.5, 0.06])
    assert is_bound(corrected, least).tolist() == [True, False, False, True]
    assert not is_bound(np.array([1.0]), smallest_p(60, 99)).any()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_at_least_raw_and_at_most_bonferroni(values: list[float]) -> None:
    p = np.array(values)
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, p * len(p)) + 1e-12).all()
