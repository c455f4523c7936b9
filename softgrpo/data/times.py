"""Times as people write them, in seconds since 1970: numbers in seconds or finer, and texts as ISO 8601 has them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

EARLIEST, LATEST = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (1990, 2100))
"""Seconds since 1970 that interactions lie between; a unit in which all times do is the unit that is meant."""
UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
ISO = "ISO 8601"
OWN = "a unit of its own"
RULE = "times are numbers, such as seconds since 1970, or all of them texts of ISO 8601, such as 2024-01-31 or 2024-01-31T12:00:00"
Wrong = Callable[[int, str], Exception]
"""Makes the error of a row, from its number and what is wrong there."""


def unit_of(numbers: NDArray[np.float64]) -> str:
    """Returns the unit of times (n,): one of `UNITS`, or `OWN` where they cannot be told to be since 1970."""
    if not len(numbers):
        return OWN
    low, high = float(numbers.min()), float(numbers.max())
    return next((unit for unit, size in UNITS.items() if low / size >= EARLIEST and high / size < LATEST), OWN)


def in_seconds(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """Returns times (n,) in seconds, and the unit that they had; those of a unit of its own stay as they are."""
    unit = unit_of(numbers)
    return (numbers / UNITS[unit] if UNITS.get(unit, 1.0) != 1.0 else numbers), unit


def read_times(texts: pd.Series, wrong: Wrong) -> tuple[NDArray[np.float64], str]:
    """Returns texts as times in seconds (n,), and what they were.

    Args:
        texts: (n,) numbers or ISO 8601.
        wrong: Makes the error of a row.

    Raises:
        DataError: As `wrong` makes it: a text is neither, or the texts are of several forms.
    """
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    finite = np.isfinite(numbers)
    if finite.all():
        return in_seconds(numbers)
    dates = pd.to_datetime(
        texts.mask(pd.Series(finite, index=texts.index)), format="ISO8601", utc=True, errors="coerce"
    )
    is_date = dates.notna().to_numpy(bool)
    if finite[0]:
        bad, form = ~finite, "a number as in the first row"
    elif is_date[0]:
        bad, form = ~is_date, "a time of ISO 8601 as in the first row"
    else:
        bad, form = ~is_date, "neither a number nor a time of ISO 8601"
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        no = "" if form.startswith("neither") else "not "
        raise wrong(row, f"'{texts.iloc[row]}', {no}{form}")
    microseconds = dates.astype("datetime64[us, UTC]").astype("int64").to_numpy(np.int64)  # nanoseconds end in 2262
    return microseconds / 1e6, ISO
