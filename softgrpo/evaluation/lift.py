"""NDCG at every cut-off, of one method and of what it is compared with. Legend: W windows, K cut-offs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.evaluation.significance import per_user
from softgrpo.evaluation.table import Comparison
from softgrpo.ranking.rewards import JudgedLists

LARGEST_K = 50


def lift_at(
    comparison: Comparison, judged: JudgedLists, users: NDArray[np.integer], rows: Mapping[str, str]
) -> pd.DataFrame:
    """Returns NDCG@k of some rows for k = 1, 2, ... `LARGEST_K`, means over users.

    Args:
        comparison: Holds the weights of the rows.
        judged: The W test windows.
        users: (W,) user ids; windows of a user are averaged first.
        rows: Key of each row -> what people call it.

    Returns:
        (K, rows) with the index `k`, a column for each name.
    """
    ks = tuple(range(1, LARGEST_K + 1))
    columns = {}
    for key, label in rows.items():
        values = judged.metrics(comparison.method(key).weights, ks)
        by_window = np.stack([values[f"ndcg@{k}"].numpy() for k in ks], axis=1)
        columns[label] = per_user(by_window, users).mean(0)
    return pd.DataFrame(columns, index=pd.Index(ks, name="k"))
