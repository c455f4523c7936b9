"""Stage `test`: all methods on the test windows, the comparison table and the report. Legend: W windows, M recallers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.baselines.zero_shot import can_generate
from softgrpo.common.artifacts import CONFUSION, CURVES, INPUT_SHIFTS, RECALLER_CURVES
from softgrpo.common.digests import digest_file
from softgrpo.common.records import Part
from softgrpo.common.training_part import training_counts
from softgrpo.config import ExperimentConfig, PolicyConfig
from softgrpo.data.windows import later_training_share, tied_target_share
from softgrpo.evaluation.beyond import beyond_accuracy, beyond_metrics, mean_popularity
from softgrpo.evaluation.cases import data_facts, extreme_cases
from softgrpo.evaluation.chosen import write_chosen
from softgrpo.evaluation.coverage import coverage_of, join_coverage
from softgrpo.evaluation.drivers import drivers_of
from softgrpo.evaluation.learnt import learnt_sentence
from softgrpo.evaluation.lift import Lift, lift_at
from softgrpo.evaluation.report import write_report
from softgrpo.evaluation.report_content import Report
from softgrpo.evaluation.report_files import save_report
from softgrpo.evaluation.rows import standard_methods
from softgrpo.evaluation.summary import FOCUS
from softgrpo.evaluation.table import Comparison, compare
from softgrpo.policy.prior import starting_weights
from softgrpo.policy.shift import load_shifts
from softgrpo.ranking.fusion import merged_lists
from softgrpo.ranking.metrics import check_any_window
from softgrpo.ranking.sharded import ShardedLists
from softgrpo.recallers.candidates import BLOCK
from softgrpo.reporting import BEST_METRIC, Reporter
from softgrpo.stages.answered import policy_logits, read_weights, untrained_weights
from softgrpo.stages.choice import choose_method
from softgrpo.stages.contract import MERGE_MILLISECONDS, StageContext
from softgrpo.stages.fitted import FittedBaselines
from softgrpo.stages.inputs import Prepared, embeddings_of
from softgrpo.stages.leakage import check_everyone_is_tested
from softgrpo.stages.merge_table import bounds_note, merge_metrics, merge_rows, other_merges
from softgrpo.stages.opened import Opened
from softgrpo.stages.shards import in_shards

TIMED_WINDOWS = 512
SHOWN_SHIFTS = 8
SHOWN_SFT_CURVES = {
    "loss": "loss on training windows",
    BEST_METRIC: "NDCG on validation windows",
    "eval_accuracy": "share of right choices, validation",
}
SHOWN_CURVES = {
    "reward": "reward (training samples)",
    "kl": "KL from the SFT policy",
    BEST_METRIC: "NDCG on validation windows",
    "policy_entropy": "policy entropy",
    "ratio_max": "largest importance ratio",
    "clip_ratio_high": "share clipped above",
}


def learned_weights(context: StageContext, opened: Opened) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the weights (W, M) of each language model, and what a reader must know about a row that is not there."""
    config = context.config
    learned, notes = {}, {}
    if "zero_shot" in config.evaluation.baselines:
        if can_generate(config.policy.model_name):
            learned["zero_shot"] = untrained_weights(opened, context.pieces)
        else:
            notes["zero-shot row"] = "none: the language model is an encoder, which cannot answer without training"
    asked: dict[tuple[str, ...], Tensor] = {}  # SofT-GRPO may have kept the weights of SFT
    for key in ("sft", "grpo"):
        folder = context.inputs[key]
        model = tuple(digest_file(path) for path in sorted(folder.glob("*.safetensors")))
        assert model, folder
        if model not in asked:
            label = f"{key} on test windows"
            asked[model] = policy_logits(opened, key, label, context.pieces, context.reporter)
        learned[key] = read_weights(folder, asked[model])
    return learned, notes


def _training_curves(folder: Path, titles: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    stored = json.loads((folder / CURVES).read_text(encoding="utf-8"))
    return {title: pd.DataFrame(stored[name]) for name, title in titles.items() if name in stored}


def _recaller_curves(folder: Path) -> dict[str, dict[str, pd.DataFrame]]:
    stored = json.loads((folder / RECALLER_CURVES).read_text(encoding="utf-8"))
    return {
        recaller: {name: pd.DataFrame(points) for name, points in curves.items()} for recaller, curves in stored.items()
    }


def _final_metrics(comparison: Comparison) -> dict[str, float]:
    """Returns the numbers that runs are compared by: `<metric>/<method>` for every method."""
    metrics: dict[str, float] = {}
    for row in comparison.table.to_dict("records"):
        for name, value in row.items():
            if name not in ("method", "label", "kind") and not str(name).endswith("_p_bound") and not pd.isna(value):
                metrics[f"{name}/{row['method']}"] = float(value)
    return metrics


def _data_facts(prepared: Prepared) -> dict[str, str]:
    corpus, windows = prepared.corpus, prepared.windows
    tied = tied_target_share(corpus, windows, Part.TEST)
    return data_facts(corpus, windows, tied, later_training_share(corpus, windows))


def foreign_note(config: ExperimentConfig) -> dict[str, str]:
    """Returns what a reader must know about recallers from files."""
    names = ", ".join(name for name in config.recall.recallers if name in config.recall.files)
    return {"recallers from files": f"{names}; what they were trained on could not be checked"} if names else {}


def floor_note(config: ExperimentConfig) -> dict[str, str]:
    """Returns what a reader must know about the row of the best static mixture."""
    if config.policy.prior != "static":
        return {}
    floor = f"each weight raised to at least {config.policy.prior_floor:g} and the whole normalised"
    return {"best static mixture": f"{floor}, as the policy starts from it"}


def describe_model(policy: PolicyConfig) -> str:
    """Returns what people call the language model: its name without a folder of this machine, its size, what is trained."""
    name = policy.model_name
    shown = Path(name).name if Path(name).is_absolute() or Path(name).exists() else name
    trained = f"LoRA adapters of rank {policy.lora_r}" if policy.adapter == "lora" else "all weights"
    frozen = f" behind {policy.frozen_layers} frozen layers" if policy.frozen_layers else ""
    return f"{shown} (size {policy.size}), {trained}{frozen} trained"


def listed_blocks(prepared: Prepared, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Gives the items (w, M, D) that recallers list and the targets (w, T) of some windows, a block at a time."""
    for block in in_shards(rows, BLOCK):
        yield prepared.stored_lists.rows(block).items, prepared.targets[block]


def _report_merging(reporter: Reporter, judged: ShardedLists, weights: Tensor) -> None:
    """Reports how long merging the lists of one window takes; a time is no part of what is stored."""
    few = np.arange(min(TIMED_WINDOWS, len(judged)))
    aligned = judged.at(few).aligned
    started = time.perf_counter()
    merged = merged_lists(aligned, weights[few, None], judged.fusion, judged.fusion.k)
    reporter.metrics({MERGE_MILLISECONDS: 1000 * (time.perf_counter() - started) / len(merged)}, 0)


def record_note(config: ExperimentConfig) -> dict[str, str]:
    """Returns what a reader must know about inputs that the split makes unequal."""
    if config.tells_record:
        return {}
    return {"inputs left out": f"track record and length of the history (features.record {config.features.record})"}


def _lift(comparison: Comparison, judged: ShardedLists, users: NDArray[np.int32], config: ExperimentConfig) -> Lift:
    """Returns NDCG at every cut-off of the focus and what it is compared with."""
    single = f"{comparison.best_single} (best single)"
    rows = {
        FOCUS: comparison.method(FOCUS).label,
        comparison.best_single: single,
        comparison.best_static: "best static",
    }
    return lift_at(comparison, judged, users, rows, config.evaluation, config.seed)


def run(context: StageContext) -> dict[str, float]:
    config, out = context.config, context.out
    opened = Opened(config, context.inputs)
    prepared = opened.prepared
    rows = prepared.windows.of(Part.TEST)
    check_any_window("test", len(rows), "the stage test needs users with at least one item in the test part")
    learned, notes = learned_weights(context, opened)
    fitted = FittedBaselines.load(config, context.inputs["gates"])
    judged, recallers = prepared.sharded(rows), prepared.recallers
    merges = merge_rows(prepared, rows)
    others = {fusion.method: prepared.sharded(rows, fusion) for fusion in other_merges(prepared)}
    start = starting_weights(np.asarray(prepared.static.best.weights), config.policy)
    gates, chosen = fitted.rows(prepared, rows), choose_method(prepared, context.inputs)
    rankers = fitted.rankers(prepared, rows, judged, embeddings_of(context.inputs))
    free = prepared.merges.unbounded
    methods = standard_methods(judged, recallers, prepared.static, start, learned, config, gates, others, rankers, free)
    users = prepared.windows.user[rows]
    comparison = compare(judged, users, rows, methods, prepared.static.best_single.name, config)
    check_everyone_is_tested(comparison.measured.windows, prepared.windows)
    popularity = training_counts(prepared.corpus, prepared.windows)
    targets = prepared.targets[rows]
    beyond = beyond_accuracy(judged, methods, recallers, popularity, config.fusion.k)
    best = comparison.best_single
    report = Report(
        config=config,
        comparison=comparison,
        merge=prepared.fusion.name,
        merges=merges,
        static=prepared.static,
        gates=fitted.choices,
        facts=_data_facts(prepared)
        | floor_note(config)
        | record_note(config)
        | notes
        | foreign_note(config)
        | bounds_note(prepared, comparison),
        focus=FOCUS,
        learnt=learnt_sentence(comparison, FOCUS, config.policy.prior == "static"),
        head={"language model": describe_model(config.policy)},
        history=prepared.windows.start[rows],
        curves=_training_curves(context.inputs["grpo"], SHOWN_CURVES),
        sft_curves=_training_curves(context.inputs["sft"], SHOWN_SFT_CURVES),
        recaller_curves=_recaller_curves(prepared.data),
        confusion=pd.read_csv(context.inputs["sft"] / CONFUSION, index_col="best"),
        cases=extreme_cases(comparison, judged, prepared.corpus, prepared.windows, FOCUS, best),
        coverage=join_coverage([coverage_of(recallers, *of_block) for of_block in listed_blocks(prepared, rows)]),
        lift=_lift(comparison, judged, users, config),
        beyond=beyond,
        popularity=mean_popularity(targets, popularity),
        drivers=drivers_of(
            recallers,
            comparison.method(FOCUS).weights.numpy(),
            prepared.numbers.values[rows],
            prepared.numbers.names,
        ),
        shifts=load_shifts(prepared.data / INPUT_SHIFTS)[:SHOWN_SHIFTS],
        chosen=chosen,
    )
    _report_merging(context.reporter, judged, comparison.method(FOCUS).weights)
    write_chosen(out, chosen)
    save_report(report, out)
    write_report(report, out)
    exposed = beyond_metrics(beyond, (FOCUS, best, comparison.best_static), config.fusion.k)
    return _final_metrics(comparison) | exposed | merge_metrics(prepared, merges)
