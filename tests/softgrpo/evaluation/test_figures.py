"""What the figures of the report show, derived by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softgrpo.evaluation.coverage import coverage_of
from softgrpo.evaluation.drivers import Drivers, drivers_of
from softgrpo.evaluation.figures import _curves, _recallers, _shares
from softgrpo.evaluation.lift import LARGEST_K, Lift, lift_at
from softgrpo.evaluation.plot_style import NARROW_INCHES, narrow_path, save
from softgrpo.evaluation.plots import comparison_figure, lift_figure
from softgrpo.policy.blocks.record import HISTORY
from tests.softgrpo.evaluation.setup_small import NAMES, USERS, Small


def test_unique_hits_and_overlap() -> None:
    """Window 0: A finds 1 and 2, B finds 2. Window 1: only B finds 7, nobody 8. Window 2: padding is no hit."""
    items = np.array([[[1, 2, 3], [2, 9, -1]], [[4, 5, 6], [7, 1, 2]], [[1, 2, -1], [3, -1, -1]]], dtype=np.int32)
    targets = np.array([[1, 2], [7, 8], [9, -1]], dtype=np.int32)
    coverage = coverage_of(("A", "B"), items, targets)
    assert (coverage.targets, coverage.found) == (5, 3)
    assert coverage.hits == (2, 2)
    assert coverage.unique == (1, 1)
    assert coverage.shared == ((2, 1), (1, 2))
    np.testing.assert_array_equal(coverage.overlap, [[1, 0.5], [0.5, 1]])
    assert coverage.sentence == (
        "A alone finds 1 targets, B alone 1; 2 of 5 targets are in no list, and no weights can bring them up."
    )


def test_without_a_hit_nothing_overlaps() -> None:
    coverage = coverage_of(("A", "B"), np.full((1, 2, 3), -1, np.int32), np.array([[4]], np.int32))
    assert coverage.sentence == "No recaller finds a target: all 1 are in no list."
    np.testing.assert_array_equal(coverage.overlap, np.zeros((2, 2)))


def test_the_strongest_driver() -> None:
    """The weight of A rises with the history, that of B falls; the strength of A's scores goes halfway; the rest is constant."""
    numbers = np.zeros((10, 13))
    numbers[:, 10] = np.log1p(np.arange(10) * 10)
    numbers[:, 0] = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    weight = np.linspace(0.1, 0.9, 10)
    drivers = drivers_of(("A", "B"), np.stack([weight, 1 - weight], axis=1), numbers, NAMES)
    assert drivers is not None
    assert drivers.numbers == NAMES
    np.testing.assert_allclose(drivers.correlation[10], [1, -1])
    assert drivers.correlation[0] == pytest.approx([0, 0])
    assert np.isnan(drivers.correlation[1]).all()
    assert drivers.strongest(2).tolist() == [10, 0]
    assert drivers.sentence.startswith("The weight of A goes most with 'history length' (rank correlation +1.00).")
    first, *_, last = drivers.groups[HISTORY]  # fifths of ten windows: two each
    assert len(drivers.groups[HISTORY]) == 5
    assert (first.low, last.high) == pytest.approx((0, 90))  # not their logarithms
    assert first.weights == pytest.approx((np.mean(weight[:2]), 1 - np.mean(weight[:2])))
    read = Drivers.of(drivers.as_record())
    np.testing.assert_array_equal(read.correlation, drivers.correlation)
    assert read.groups == drivers.groups


def test_equal_weights_have_no_driver() -> None:
    numbers = np.random.default_rng(0).random((10, 13))
    assert drivers_of(("A", "B"), np.full((10, 2), 0.5), numbers, NAMES) is None


def test_lift_is_the_ndcg_of_the_table_at_its_cut_off(case: Small) -> None:
    rows = {"grpo_multi": "SofT", "Left": "L", "static": "S"}
    lift = lift_at(case.comparison, case.judged, np.arange(USERS), rows, case.config.evaluation, case.config.seed)
    assert list(lift.ndcg.index) == list(range(1, LARGEST_K + 1))
    table = case.comparison.table.set_index("method")
    for k in (5, 10, 20):
        assert lift.ndcg.loc[k, "SofT"] == pytest.approx(table.loc["grpo_multi", f"ndcg@{k}"])
        assert lift.ndcg.loc[k, "S"] == pytest.approx(table.loc["static", f"ndcg@{k}"])
    row, base = table.loc["grpo_multi"], table.loc["static", "ndcg@5"]  # the table's own interval is of k = 5
    assert lift.shares.loc[5, "S"] == pytest.approx(row["vs_static_relative"])
    assert lift.low is not None and lift.low.loc[5, "S"] == pytest.approx(row["vs_static_low"] / base)
    assert lift.high is not None and lift.high.loc[5, "S"] == pytest.approx(row["vs_static_high"] / base)
    assert (lift.low <= lift.shares).all(axis=None) and (lift.shares <= lift.high).all(axis=None)
    read = Lift.of(json.loads(json.dumps(lift.as_record())))
    for name in ("ndcg", "low", "high"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(lift, name))
    assert (read.confidence, read.draws) == (0.95, 200)


def made_lift(**columns: list[float]) -> Lift:
    return Lift(pd.DataFrame(columns, index=pd.Index([1, 2], name="k")))


def test_a_reference_without_a_lift_has_no_line() -> None:
    """0.2 is 100 % above 0.1; 0.1 and 0.100001 are 0.0 % apart; where the reference has 0 there is no share."""
    lift = made_lift(A=[0.2, 0.1], B=[0.1, 0.1], C=[0.2, 0.100001])
    np.testing.assert_allclose(lift.shares, [[1, 0], [0, -1e-5]], atol=1e-6)
    assert lift.flat == ("C",)
    assert [line.get_label() for line in lift_figure(lift).axes[1].lines][1:] == ["over B"]
    nowhere = made_lift(A=[0.0, 0.1], B=[0.0, 0.1], C=[0.0, 0.05])
    np.testing.assert_allclose(nowhere.shares, [[np.nan, np.nan], [0, 1]])
    assert nowhere.flat == ("B",) and made_lift(A=[0.0, 0.0], B=[0.0, 0.0]).flat == ("B",)
    stored = lift.ndcg.to_dict("split")  # as an earlier version did
    pd.testing.assert_frame_equal(Lift.of(stored).ndcg, lift.ndcg)
    assert Lift.of(stored).low is None


def test_on_a_phone_panels_stand_below_each_other_with_all_labels(case: Small, tmp_path: Path) -> None:
    table = case.comparison.table
    figure = comparison_figure(table, 5)
    assert figure.axes[0].get_ylim() == (len(table) - 0.4, -0.6), "no empty place above the first bar or below the last"
    assert len({axis.get_position().y0 for axis in figure.axes}) == 1
    path = save(figure, tmp_path, "comparison")
    assert figure.get_figwidth() == NARROW_INCHES
    places = [axis.get_position() for axis in figure.axes]
    assert len(places) == 3 and all(upper.y0 > lower.y1 for upper, lower in pairwise(places))
    wide, narrow = path.read_text(), narrow_path(path).read_text()
    assert (wide.count(">Oracle weights</text>"), narrow.count(">Oracle weights</text>")) == (1, 3)
    assert {file.name for file in tmp_path.iterdir()} == {"comparison.png", "comparison.svg", "comparison-narrow.svg"}


def test_a_constant_curve_is_told_in_words() -> None:
    def frame(*values: float) -> pd.DataFrame:
        return pd.DataFrame({"step": np.arange(1.0, len(values) + 1), "value": values})

    curves = {"reward": frame(0.1, 0.2), "share clipped above": frame(0, 0), "NDCG": frame(0.3)}
    _, _, caption, figure = _curves("training", "Training", "A caption.", curves)
    assert caption.endswith("steps. The same at every step: share clipped above 0.")
    assert figure is not None
    assert [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()] == ["reward", "NDCG"]
    only = {"share clipped above": frame(0, 0), "entropy": frame(0.5, 0.5), "KL": frame(-1e-8, -2e-8)}
    nothing = "The same at every step: share clipped above 0; entropy 0.5; KL 0."
    assert _curves("training", "Training", "A caption.", only) == ("training", "Training", nothing, None)


def test_shares_of_winners_and_losers() -> None:
    gains = np.array([0.2, 0.1, 0.0, -0.1, 0.0, 0.0, 0.0, 0.0])
    assert _shares(gains) == "25.0% of the users gain, 12.5% lose and 62.5% see no difference"


def test_recallers_of_one_epoch_are_named_and_losses_start_at_one() -> None:
    def frame(*values: float) -> pd.DataFrame:
        return pd.DataFrame({"step": np.arange(1.0, len(values) + 1), "value": values})

    curves = {
        "A": {"recall_loss": frame(4.0, 2.0, 1.0), "recall_valid_ndcg": frame(0.1, 0.2, 0.15)},
        "B": {"recall_loss": frame(0.5)},
    }
    _, _, caption, figure = _recallers(curves)
    assert caption.endswith("B: one epoch, a single point.")
    assert figure is not None
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["A"]) == [1.0, 0.5, 0.25] and list(lines["B"]) == [1.0]
    only = {"B": {"recall_loss": frame(0.5)}, "C": {}}
    assert _recallers(only)[2:] == ("No recaller was trained for more than one epoch: there is no curve.", None)
