"""Which method validation windows choose, policies among them; in the stage `test`. Legend: W validation windows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from softgrpo.common.artifacts import CURVES, VALID_NDCG
from softgrpo.common.columns import Columns
from softgrpo.errors import DataError
from softgrpo.evaluation.chosen import Chosen, UsableMethod, read_chosen
from softgrpo.evaluation.rows import learned_labels
from softgrpo.policy.card import load_card
from softgrpo.reporting import BEST_METRIC
from softgrpo.stages.callbacks import best_evaluation
from softgrpo.stages.contract import POLICY_STAGES
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.training import evaluation_at

logger = logging.getLogger(__name__)


def policy_methods(folder: Path, stage: str) -> list[UsableMethod]:
    """Returns both rows of a stored policy with their NDCG at the evaluation that the policy was kept for.

    Args:
        folder: Of the stage.
        stage: sft or grpo.
    """
    drawn = json.loads((folder / CURVES).read_text(encoding="utf-8"))
    points = drawn.get(BEST_METRIC, {"step": [], "value": []})
    values = dict(zip(points["step"], points["value"], strict=True))
    kept = evaluation_at(drawn, best_evaluation(values)) if values else {}
    multi = "ndcg_multi" if load_card(folder).reading_tau == 1.0 else "ndcg_multi_tau"
    named = zip(learned_labels(stage).items(), ("ndcg_single", multi), strict=True)
    return [UsableMethod(key, label, "learned", kept.get(name)) for (key, label), name in named]


def choose_method(prepared: Prepared, inputs: Mapping[str, Path]) -> Chosen:
    """Chooses among all methods by the validation windows that policies were chosen by, the same windows for all of them.

    A policy's NDCG is that of its training (`train.max_valid_windows` may have limited it to a sample, which the others are then
    judged on too). Windows that a policy did not read count for it as 0, see `Prepared.asked_rows`.

    Args:
        prepared: Output of the earlier stages.
        inputs: Folder of each upstream node.

    Raises:
        DataError: The stage `gates` stored no choice, or for other validation windows.
    """
    fitted = read_chosen(inputs["gates"])
    rows = prepared.choosing_rows()
    ndcg = pd.read_parquet(inputs["gates"] / VALID_NDCG).set_index(Columns.Window) if fitted else None
    if fitted is None or ndcg is None or not set(rows.tolist()) <= set(ndcg.index):
        raise DataError(
            f"a stage gates without NDCG in the {len(rows)} validation windows that decide",
            "methods are compared on the same validation windows",
            "Repeat the stage gates",
            code="DATA-030",
        )
    means = ndcg.loc[rows].mean()
    methods = [replace(each, valid_ndcg=float(means[each.key])) for each in fitted.methods]
    for stage in POLICY_STAGES:
        methods += policy_methods(inputs[stage], stage)
    chosen = Chosen.of(fitted.k, len(rows), methods)
    if chosen.unknown:
        logger.warning("no NDCG on validation windows, so not chosen: %s", ", ".join(chosen.unknown))
    return chosen
