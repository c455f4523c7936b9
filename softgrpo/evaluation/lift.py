"""NDCG at every cut-off, of one method and of what it is compared with. Legend: W windows, U users, K cut-offs, R references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.scratch import scratch
from softgrpo.config import EvaluationConfig
from softgrpo.evaluation.significance import paired_bootstrap, per_user
from softgrpo.evaluation.table import Comparison, by_lists
from softgrpo.ranking.sharded import Judged, shards_of

LARGEST_K = 50
FLAT = 5e-4
"""A lift below this at every k is 0.0 % wherever it is written: there is no line to draw."""


@dataclass(frozen=True)
class Lift:
    """How much larger the NDCG of a method is than that of its references, for every length of the list.

    Attributes:
        ndcg: (K, 1 + R) means over users with the index `k`; the method is the first column.
        low: (K, R) lower end of the interval of the difference, as a share of the reference's mean; None where an earlier
            version stored the report.
        high: Upper end, likewise.
        confidence: Level of the intervals, those of the run; a report that is written again with other draws keeps them.
        draws: Of the bootstrap.
    """

    ndcg: pd.DataFrame
    low: pd.DataFrame | None = None
    high: pd.DataFrame | None = None
    confidence: float = 0.0
    draws: int = 0

    @property
    def label(self) -> str:
        """What the method is called."""
        return str(self.ndcg.columns[0])

    @property
    def shares(self) -> pd.DataFrame:
        """(K, R) difference to each reference as a share of its mean, NaN where that is 0."""
        references = self.ndcg.iloc[:, 1:]
        return references.rsub(self.ndcg.iloc[:, 0], axis=0) / references.where(references > 0)

    @property
    def flat(self) -> tuple[str, ...]:
        """Names of the references to which there is no difference at any k."""
        shares, first = self.shares, self.ndcg.iloc[:, 0]
        return tuple(
            str(name)
            for name in shares
            if shares[name].abs().max() < FLAT or np.array_equal(self.ndcg[name].to_numpy(), first.to_numpy())
        )

    def as_record(self) -> dict[str, Any]:
        """Returns what is stored of it, see `of`."""
        frames = {"ndcg": self.ndcg, "low": self.low, "high": self.high}
        tables = {name: None if frame is None else frame.to_dict("split") for name, frame in frames.items()}
        return tables | {"confidence": self.confidence, "draws": self.draws}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Lift:
        """Reads what `as_record` returned, or what an earlier version stored: the table of NDCG alone."""
        if "ndcg" not in record:
            return cls(_frame(record))
        low, high = (None if record[name] is None else _frame(record[name]) for name in ("low", "high"))
        return cls(_frame(record["ndcg"]), low, high, record["confidence"], record["draws"])


def _frame(table: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(**table).rename_axis("k")


def lift_at(
    comparison: Comparison,
    judged: Judged,
    users: NDArray[np.integer],
    rows: Mapping[str, str],
    settings: EvaluationConfig,
    seed: int,
) -> Lift:
    """Returns NDCG@k of a method and of its references for k = 1, 2, ... `LARGEST_K`, with paired bootstrap intervals over users.

    Args:
        comparison: Holds the weights of the rows.
        judged: The W test windows.
        users: (W,) user ids; windows of a user are averaged first.
        rows: Key of each row -> what people call it, the method first.
        settings: Of the bootstrap.
        seed: Of the bootstrap.
    """
    ks = tuple(range(1, LARGEST_K + 1))
    by_window = dict(zip(rows, scratch((len(rows), len(judged), len(ks))), strict=True))
    for lists, own in by_lists(judged, [comparison.method(key) for key in rows]):
        for part, shard in shards_of(lists):
            for method in own:
                values = shard.metrics(method.weights[part], ks)
                by_window[method.key][part] = np.stack([values[f"ndcg@{k}"].numpy() for k in ks], axis=1)
    scores = scratch((len(np.unique(users)), len(ks), len(rows)))  # (U, K, 1 + R)
    for place, values in enumerate(by_window.values()):
        scores[:, :, place] = per_user(values, users)
    index, (_, *references) = pd.Index(ks, name="k"), rows.values()
    ndcg = pd.DataFrame(scores.mean(0), index=index, columns=list(rows.values()))
    differences = scratch((len(scores), len(ks), len(references)))  # of all k, with the same draws of users
    np.subtract(scores[:, :, :1], scores[:, :, 1:], out=differences)
    result = paired_bootstrap(differences, settings.bootstrap, settings.confidence, seed)
    base = ndcg[references].where(ndcg[references] > 0)
    low, high = (
        pd.DataFrame(ends.reshape(len(ks), -1), index=index, columns=references) / base
        for ends in (result.low, result.high)
    )
    return Lift(ndcg, low, high, settings.confidence, settings.bootstrap)
