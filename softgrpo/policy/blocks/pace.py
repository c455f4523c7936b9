"""How long a history lasts and how long its pauses are: log(1 + days), or in the file's own unit where times are no seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import RANGE
from softgrpo.policy.blocks.block import Block, Known, Numbers, latest

PAUSES = 50
"""How many of the latest pauses count."""
SECONDS_FROM, SECONDS_TO = 1e8, 1e10  # smaller times are positions or years, larger ones milliseconds since 1970
DAY_SECONDS = 86_400.0


def in_seconds(time: NDArray[np.float64]) -> bool:
    """Tells whether all times of the data, (N,), look like seconds since 1970; unknown ones do not."""
    parts = (time[first : first + RANGE] for first in range(0, len(time), RANGE))
    return all(bool(((part >= SECONDS_FROM) & (part < SECONDS_TO)).all()) for part in parts)  # NaN is neither


def _compute(known: Known) -> Numbers:
    corpus, windows = known.corpus, known.windows
    places = latest(known, PAUSES + 1)
    newest = corpus.time[places[:, 0]]
    pauses = np.where(places[:, 1:] >= 0, corpus.time[places[:, :-1]] - corpus.time[places[:, 1:]], np.nan)
    lengths = {
        "length of the history in time": newest - corpus.time[corpus.offsets[windows.user]],
        "last pause": pauses[:, 0],
        "usual pause": _median(pauses),
    }
    seconds = in_seconds(corpus.time) if known.seconds is None else known.seconds
    unit = DAY_SECONDS if seconds else 1.0
    numbers = {name: np.log1p(np.nan_to_num(length) / unit) for name, length in lengths.items()}
    return numbers | {"has a pause": (~np.isnan(pauses[:, 0])).astype(np.float64)}


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the median of the known values of each row (w, n), NaN where there is none."""
    ascending = np.sort(values, axis=1)  # NaN last
    count = (~np.isnan(values)).sum(1)
    middle = np.stack([np.maximum(count - 1, 0) // 2, count // 2], axis=1)
    median: NDArray[np.float64] = np.take_along_axis(ascending, np.minimum(middle, values.shape[1] - 1), 1).mean(1)
    return median


PACE = Block("pace", _compute, {"length of the history in time": "time span", "last pause": "last pause"})
