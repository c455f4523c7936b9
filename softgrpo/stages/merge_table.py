"""The merges that the stage `data` tried, on test windows. Legend: W windows, M recallers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.config import FusionConfig, MergeMethod
from softgrpo.evaluation.report_content import MergeRow
from softgrpo.evaluation.rows import UNBOUNDED
from softgrpo.evaluation.significance import per_user
from softgrpo.evaluation.table import Comparison
from softgrpo.ranking.sharded import ndcg_of
from softgrpo.stages.inputs import Prepared


def other_merges(prepared: Prepared) -> list[FusionConfig]:
    """Returns a merge of each method but the run's own: the best one that was tried, or else the one that the settings say."""
    tried = sorted(prepared.merges.tried, key=lambda merge: merge.best.valid_ndcg)
    best = {merge.fusion.method: merge.fusion for merge in tried}  # of several ones the last, which is the best, stays
    named = prepared.config.fusion.for_pool(prepared.recallers)
    settings = FusionConfig.model_validate(named.model_dump(exclude={"method"}))
    return [
        best.get(method) or settings.model_copy(update={"method": method})
        for method in get_args(MergeMethod)
        if method != prepared.fusion.method
    ]


def merge_rows(prepared: Prepared, rows: NDArray[np.int64]) -> tuple[MergeRow, ...]:
    """Returns the merges that were tried, with what their static weights reach on some windows, one user like the other."""
    users, search = prepared.windows.user[rows], prepared.merges
    found = []
    for merge in search.tried:
        weights = torch.tensor([merge.best.weights], dtype=torch.float64)
        ndcg = per_user(ndcg_of(prepared.sharded(rows, merge.fusion), weights).numpy(), users).mean()
        best, chosen = merge.best, merge.fusion == search.chosen
        found.append(MergeRow(merge.fusion.name, best.name, best.weights, best.valid_ndcg, float(ndcg), chosen))
    return tuple(found)


def bounds_note(prepared: Prepared, comparison: Comparison) -> dict[str, str]:
    """Returns what a reader must know about bounds on the recallers' shares: which there are, and what they cost everybody."""
    free, bounds = prepared.merges.unbounded, prepared.fusion.bounds
    if free is None or bounds is None:
        return {}
    shares = "; ".join(
        f"{name} {low:g} to {high:g}" for name, low, high in zip(prepared.recallers, *bounds, strict=True)
    )
    metric = f"ndcg@{prepared.fusion.k}"
    on_test = comparison.table.set_index("method")[metric]
    best = prepared.static.best.valid_ndcg
    cost = (
        f"{metric.upper()} of the best static mixture is {best:.4f} with them and {free.valid_ndcg:.4f} without on validation "
        f"windows, {on_test['static']:.4f} and {on_test[UNBOUNDED]:.4f} on test windows"
    )
    rows = "Single recallers, rankers and the row without bounds do not keep them"
    return {"bounds on the recallers' shares": f"{shares}. {cost}. {rows}"}


def merge_metrics(prepared: Prepared, rows: Sequence[MergeRow]) -> dict[str, float]:
    """Returns the test NDCG of every merge, as metrics `ndcg@<k>/merge_<key>`; none where only one was tried."""
    tried, k = prepared.merges.tried, prepared.fusion.k
    if len(tried) == 1:
        return {}
    return {f"ndcg@{k}/merge_{merge.fusion.key}": row.test_ndcg for merge, row in zip(tried, rows, strict=True)}
