"""Stage `gates`: fit every method that needs no language model, store it, and say which one validation windows choose.

It stores a folder for each gate and for the item ranker, the weights of the static mixtures, and the NDCG of all of them in every
validation window, which the stage `test` compares the policies with. Legend: W validation windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from softgrpo.common.artifacts import VALID_NDCG
from softgrpo.common.columns import Columns
from softgrpo.config import FusionConfig
from softgrpo.evaluation.chosen import Chosen, UsableMethod, write_chosen
from softgrpo.evaluation.rows import Method
from softgrpo.ranking.sharded import ndcg_of
from softgrpo.stages.contract import StageContext
from softgrpo.stages.fitted import FittedBaselines
from softgrpo.stages.inputs import Prepared, embeddings_of

CONSTANT = ("single", "static")
"""Kinds of rows that give everybody the same weights."""


def usable(method: Method, valid_ndcg: float) -> UsableMethod:
    """Returns a row as a method for new windows."""
    weights = tuple(method.weights[0].tolist()) if method.kind in CONSTANT else None
    return UsableMethod(method.key, method.label, method.kind, valid_ndcg, weights)


def within_the_bounds(methods: Sequence[Method], fusion: FusionConfig) -> list[Method]:
    """Returns the rows that keep the bounds on the recallers' shares, where there are some: all that `recommend` may use."""
    return [each for each in methods if fusion.bounds is None or (each.weighs and each.keeps_bounds)]


def run(context: StageContext) -> dict[str, float]:
    config, out = context.config, context.out
    prepared, embeddings = Prepared.of(config, context.inputs), embeddings_of(context.inputs)
    fitted = FittedBaselines.fit(prepared, embeddings)
    fitted.save(out)
    rows = prepared.validation_rows
    judged = prepared.sharded(rows)
    methods = within_the_bounds(fitted.methods(prepared, rows, embeddings), judged.fusion)
    ndcg = pd.DataFrame({Columns.Window: rows})
    for method in methods:
        lists = judged if method.merged_as is None else method.merged_as
        ndcg[method.key] = ndcg_of(lists, method.weights[:, None])[:, 0].numpy()
    ndcg.to_parquet(out / VALID_NDCG, index=False)
    chosen = Chosen.of(
        config.fusion.k, len(rows), [usable(method, float(ndcg[method.key].mean())) for method in methods]
    )
    write_chosen(out, chosen)
    context.reporter.info(chosen.sentence(("static",)))
    return {
        f"valid_ndcg@{chosen.k}/{each.key}": each.valid_ndcg for each in chosen.methods if each.valid_ndcg is not None
    }
