"""The benchmark that grows: its fits by hand, its made-up data, and one run of all steps on few users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.growth import Measured, fit, fits, markdown, on_paper
from benchmarks.made_up import DEPTH, ITEMS, Place, made_up_corpus, make
from benchmarks.scale import STEPS, measure
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import check_no_leak, load_windows, targets_of

MIB = 2**20


def points(step: str = "data", lists: int = 3) -> list[Measured]:
    """Returns a step that takes 2 ms and 1 KiB a user, beside 100 MiB, and stores 512 bytes a user."""
    return [
        Measured(step, users, lists, 0.002 * users, 200 * MIB, 100 * MIB + 1024 * users, 512 * users)
        for users in (1000, 4000, 16000)
    ]


def test_a_line_is_fitted_by_its_slope_and_its_exponent() -> None:
    found = fit(points())
    assert found.time == pytest.approx(1.0)
    assert found.memory == pytest.approx(0.0)
    assert found.own == pytest.approx(np.polyfit(np.log([1, 4, 16]), np.log([100.98, 103.91, 115.63]), 1)[0], abs=1e-3)
    assert (found.second, found.byte, found.stored) == pytest.approx((0.002, 1024, 512))
    assert found.fixed == pytest.approx(100 * MIB)


def test_what_takes_a_power_of_the_users_has_that_exponent() -> None:
    grown = [Measured("data", users, 3, users**1.5, users**0.5, users**0.25, 1.0) for users in (100, 400, 900)]
    assert (fit(grown).time, fit(grown).memory, fit(grown).own) == pytest.approx((1.5, 0.5, 0.25))


def test_the_table_on_paper_follows_from_the_slopes() -> None:
    """10 million users: of three files of lists and one step more 4 * 20,000 s, 4 * 5.12 GB, and 10.24 GB of memory each."""
    found = fits([*points("recall"), *points("data")])
    line = next(line for line in on_paper(found) if line.startswith("| 10,000,000"))
    assert line == "| 10,000,000 | 3 | 20 | 22 | 1 |"
    assert next(line for line in on_paper(found) if line.startswith("| 100,000,000")).endswith("| 205 | 222 | 5 |")
    assert "| 3 | data | 1.00 |" in markdown([*points("recall"), *points("data")])


def test_made_up_users_are_like_those_of_ml_1m(tmp_path: Path) -> None:
    corpus = made_up_corpus(2000, np.random.default_rng(0))
    lengths = np.diff(corpus.offsets)
    assert lengths.min() >= 15 and 120 < lengths.mean() < 180 and corpus.num_items == ITEMS
    assert np.median(lengths) < 0.8 * lengths.mean()  # ml-1m: 96 and 166
    pairs = corpus.user.astype(np.int64) * ITEMS + corpus.item
    assert len(np.unique(pairs)) == len(pairs)


def test_made_up_lists_hold_no_item_of_the_history_and_some_targets(tmp_path: Path) -> None:
    place = Place(tmp_path, 40, 2)
    make(place)
    corpus, windows = load_corpus(place.stage("split")), load_windows(place.stage("split"))
    check_no_leak(corpus, windows)
    table = pq.read_table(place.file("R1")).to_pandas()
    first = targets_of(corpus, windows)[:, 0]
    hits = 0
    for window, (user, start) in enumerate(zip(windows.user, windows.start, strict=True)):
        rows = table[(table["user"] == str(user)) & (table["window"] == start)]
        items = rows["item"].astype(int)
        assert 0 < len(items) <= DEPTH and items.is_unique
        assert not set(items) & set(corpus.sequence(int(user))[:start].tolist())
        assert (np.diff(rows["score"]) <= 0).all()
        hits += first[window] in set(items)
    assert 0.2 < hits / len(windows) < 0.6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_steps_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    found = measure(60, 3, tmp_path)
    assert [point.step for point in found] == list(STEPS)
    assert all(point.seconds > 0 and point.peak > point.own > 50 * MIB and point.stored > 0 for point in found)
    scored = pq.read_table(tmp_path / "stages/score/scored.parquet")
    assert len(set(scored["user"].to_pylist())) == 60
