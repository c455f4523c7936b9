"""Every metric of every method in every test window. Legend: W windows, K metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.evaluation.parts import write_frames

METHOD = "method"


@dataclass(frozen=True)
class WindowMetrics:
    """What methods reach on the same windows.

    Attributes:
        names: Of the K metrics.
        windows: (W,) window numbers.
        users: (W,) user ids.
        values: By the key of each method, in order, (W, K).
    """

    names: tuple[str, ...]
    windows: NDArray[np.integer]
    users: NDArray[np.integer]
    values: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, table: pd.DataFrame) -> WindowMetrics:
        """Returns them from a table with one row per method and window, as `frame` gives it."""
        names = tuple(name for name in table.columns if name not in (METHOD, Columns.Window, Columns.User))
        frames = dict(tuple(table.groupby(METHOD, sort=False)))
        first = next(iter(frames.values()))
        values = {str(key): frame[list(names)].to_numpy() for key, frame in frames.items()}
        return cls(names, first[Columns.Window].to_numpy(), first[Columns.User].to_numpy(), values)

    @property
    def num_users(self) -> int:
        """How many users have a window."""
        return len(np.unique(self.users))

    def column(self, key: str, metric: str) -> NDArray[np.float64]:
        """Returns one metric of one method, (W,)."""
        return self.values[key][:, self.names.index(metric)]

    def frames(self) -> Iterator[pd.DataFrame]:
        """Gives one table per method, with a row per window: `method`, `window`, `user`, then the metrics."""
        for key, values in self.values.items():
            columns = {METHOD: key, Columns.Window: self.windows, Columns.User: self.users}
            yield pd.DataFrame(columns | {name: values[:, place] for place, name in enumerate(self.names)})

    def frame(self) -> pd.DataFrame:
        """Returns these tables as one."""
        return pd.concat(self.frames(), ignore_index=True)

    def write(self, path: Path) -> None:
        """Writes what `frame` returns as Parquet."""
        write_frames(path, self.frames())
