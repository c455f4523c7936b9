"""Stage `test`: all methods on the test windows, the comparison table and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from softgrpo.batching import PromptCollator, PromptRows, predict_logits
from softgrpo.callbacks import BEST_METRIC
from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.cases import data_facts, extreme_cases
from softgrpo.evaluation.report import Report, write_report
from softgrpo.evaluation.table import Comparison, compare, standard_methods
from softgrpo.policy import load_policy
from softgrpo.records import Part
from softgrpo.stages import StageContext
from softgrpo.stages.inputs import CONFUSION, Prepared

FOCUS = "grpo_multi"
SHOWN_CURVES = {
    "reward": "reward (training samples)",
    "kl": "KL from the SFT policy",
    BEST_METRIC: "NDCG on validation windows",
    "policy_entropy": "policy entropy",
    "ratio_max": "largest importance ratio",
    "clip_ratio_high": "share clipped above",
}


def policy_weights(folder: Path, config: ExperimentConfig, prepared: Prepared, label: str) -> Tensor:
    """Returns the weights (W, M) float64 of a stored policy on the test windows."""
    policy = load_policy(folder, config.policy, prepared.lists.recallers)
    train = config.train
    if train.device != "cpu" and torch.cuda.is_available():
        policy.model.to("cuda")
    rows = PromptRows(prepared.encoded(prepared.windows.of(Part.TEST), policy.tokenizer).input_ids, {})
    logits = predict_logits(
        policy.model, rows, PromptCollator(policy.tokenizer), train.eval_batch_size, train.bf16, label
    )
    return (logits.double() / policy.card.reading_tau).softmax(-1)


def _training_curves(folder: Path) -> dict[str, pd.DataFrame]:
    stored = json.loads((folder / "curves.json").read_text(encoding="utf-8"))
    return {title: pd.DataFrame(stored[name]) for name, title in SHOWN_CURVES.items() if name in stored}


def _final_metrics(comparison: Comparison) -> dict[str, float]:
    """Returns the numbers that runs are compared by: `<metric>/<method>` for every method."""
    metrics: dict[str, float] = {}
    for row in comparison.table.to_dict("records"):
        for name, value in row.items():
            if name not in ("method", "label", "kind") and not pd.isna(value):
                metrics[f"{name}/{row['method']}"] = float(value)
    return metrics


def run(context: StageContext) -> dict[str, float]:
    config, out = context.config, context.out
    prepared = Prepared.of(config, context.inputs)
    rows = prepared.windows.of(Part.TEST)
    learned = {
        key: policy_weights(context.inputs[key], config, prepared, f"{key} on test windows") for key in ("sft", "grpo")
    }
    judged = prepared.judged(rows)
    methods = standard_methods(judged, prepared.lists.recallers, prepared.static, learned, config)
    users = prepared.windows.user[rows]
    comparison = compare(judged, users, rows, methods, prepared.static.best_single.name, config)
    comparison.table.to_parquet(out / "table.parquet", index=False)
    comparison.windows.to_parquet(out / "windows.parquet", index=False)
    for key, weights in learned.items():
        pd.DataFrame(weights.numpy(), columns=list(prepared.lists.recallers)).to_parquet(out / f"weights_{key}.parquet")
    best = comparison.best_single
    report = Report(
        config=config,
        comparison=comparison,
        static=prepared.static,
        facts=data_facts(prepared.corpus, prepared.windows),
        focus=FOCUS,
        history=prepared.windows.start[rows],
        curves=_training_curves(context.inputs["grpo"]),
        confusion=pd.read_csv(context.inputs["sft"] / CONFUSION, index_col="best"),
        cases=extreme_cases(comparison, judged, prepared.corpus, prepared.windows, FOCUS, best),
    )
    write_report(report, out)
    return _final_metrics(comparison)
