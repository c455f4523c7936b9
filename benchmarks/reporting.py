"""The searches for static weights, and the report, from what a run stored."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

from benchmarks.report import Row
from benchmarks.stored_run import DEPTH, ITEMS, RECALLERS, USERS, missing, store_run

if TYPE_CHECKING:
    from softgrpo.baselines.static_mixture import StaticMixture
    from softgrpo.stages.inputs import Prepared

DRAWS = 10_000
REPORT_SECONDS, SEARCH_SECONDS = 30.0, 300.0


def measure_reporting(users: int = USERS, items: int = ITEMS, draws: int = DRAWS) -> list[Row]:
    """Writes what a run of that size stores, then times the searches for static weights and the report on all users.

    Args:
        users: How many.
        items: How many.
        draws: Bootstrap draws of the report.
    """
    lacks = missing("jinja2", "sklearn")
    searches = Row("searches for static weights", None, "s", at_most=SEARCH_SECONDS, details=f"needs {lacks}")
    report = Row(f"report, {draws:,} bootstrap draws", None, "s", at_most=REPORT_SECONDS, details=searches.details)
    if lacks:
        return [searches, report]
    import softgrpo.stages.test  # noqa: F401  # what the report imports is not timed

    with tempfile.TemporaryDirectory() as name:
        made = store_run(Path(name), users, items, {"evaluation.bootstrap": draws})
        start = time.perf_counter()
        static, windows = _search(made)
        searched = time.perf_counter()
        rows, size = write_made_up_report(made, static, Path(name) / "test")
        reported = time.perf_counter()
    lists = f"{len(RECALLERS)} lists of {DEPTH}"
    names = ", ".join(made.config.evaluation.searches)
    return [
        Row(
            searches.what,
            searched - start,
            "s",
            at_most=SEARCH_SECONDS,
            details=f"grid, {names} on {windows:,} policy windows, {lists}",
        ),
        Row(
            report.what,
            reported - searched,
            "s",
            at_most=REPORT_SECONDS,
            details=f"{rows} rows, {users:,} users, {lists}, {size / 1e6:.1f} MB with figures",
        ),
    ]


def _search(prepared: Prepared) -> tuple[StaticMixture, int]:
    """Reads the lists and searches, as the stage `data` does; returns what was found and how many windows were looked at."""
    from softgrpo.baselines.static_mixture import best_static_mixture
    from softgrpo.common.records import Part
    from softgrpo.ranking.searched import SearchedLists

    policy, valid = (prepared.windows.of(part) for part in (Part.POLICY, Part.VALID))
    config = prepared.config
    on_policy, on_valid = (SearchedLists.of(prepared.judged(rows)) for rows in (policy, valid))
    searches = config.evaluation.searches
    return best_static_mixture(
        on_policy, on_valid, RECALLERS, config.evaluation.grid_steps, config.seed, searches
    ), len(policy)


def write_made_up_report(prepared: Prepared, static: StaticMixture, out: Path) -> tuple[int, int]:
    """Writes the report as the stage `test` does once all weights are known; returns its rows and bytes.

    All the rows of a run are there; what gates and language models say is made up.
    """
    import pandas as pd

    from softgrpo.baselines.gates import GATES
    from softgrpo.common.records import Part
    from softgrpo.common.scratch import scratch
    from softgrpo.common.training_part import training_counts
    from softgrpo.config import FusionConfig, MergeMethod
    from softgrpo.data.windows import later_training_share, tied_target_share
    from softgrpo.evaluation.beyond import beyond_accuracy, mean_popularity
    from softgrpo.evaluation.cases import data_facts, extreme_cases
    from softgrpo.evaluation.coverage import coverage_of, join_coverage
    from softgrpo.evaluation.drivers import drivers_of
    from softgrpo.evaluation.learnt import learnt_sentence
    from softgrpo.evaluation.lift import lift_at
    from softgrpo.evaluation.report import write_report
    from softgrpo.evaluation.report_content import Report
    from softgrpo.evaluation.report_files import save_report
    from softgrpo.evaluation.rows import Gate, ranker_method, standard_methods
    from softgrpo.evaluation.summary import FOCUS
    from softgrpo.evaluation.table import compare
    from softgrpo.policy.blocks.record import HISTORY
    from softgrpo.stages.test import SHOWN_CURVES, listed_blocks

    config, rows = prepared.config, prepared.windows.of(Part.TEST)
    rng, recallers = np.random.default_rng(1), prepared.recallers

    def weights() -> torch.Tensor:
        return torch.from_numpy(rng.dirichlet(np.ones(len(recallers)), len(rows)))

    judged = prepared.sharded(rows)
    merges = {
        name: prepared.sharded(rows, FusionConfig(method=name))
        for name in get_args(MergeMethod)
        if name != judged.fusion.method
    }
    gates = {name: Gate(kind.label, weights(), 0.1, "made up") for name, kind in GATES.items()}
    first, begin = scratch((len(rows), prepared.stored_lists.depth), np.int64), 0
    for items, _ in listed_blocks(prepared, rows):
        first[begin : begin + len(items)] = items[:, 0]
        begin += len(items)
    rankers = [ranker_method("ranker", "Item ranker", first, judged)]
    learned = {name: weights() for name in ("sft", "grpo")}
    start = torch.tensor(static.best.weights, dtype=torch.float64)
    methods = standard_methods(judged, recallers, static, start, learned, config, gates, merges, rankers)
    users, best = prepared.windows.user[rows], static.best_single.name
    comparison = compare(judged, users, rows, methods, best, config)
    names = (*(f"number {place}" for place in range(5 * len(recallers) + 2)), HISTORY)
    numbers = rng.random((len(rows), len(names)))
    popularity = training_counts(prepared.corpus, prepared.windows)
    targets = prepared.targets[rows]
    steps = pd.DataFrame({"step": range(100), "value": rng.random(100)})
    lifted = {FOCUS: "SofT-GRPO multi", best: best, "static": "best static"}
    report = Report(
        config=config,
        comparison=comparison,
        merge=judged.fusion.name,
        merges=(),
        static=static,
        gates=(),
        facts=data_facts(
            prepared.corpus,
            prepared.windows,
            tied_target_share(prepared.corpus, prepared.windows, Part.TEST),
            later_training_share(prepared.corpus, prepared.windows),
        ),
        focus=FOCUS,
        learnt=learnt_sentence(comparison, FOCUS, static_prior=True),
        head={},
        history=prepared.windows.start[rows],
        curves=dict.fromkeys(SHOWN_CURVES.values(), steps),
        sft_curves={"loss": steps},
        recaller_curves={name: {"recall_loss": steps, "recall_valid_ndcg": steps} for name in recallers},
        confusion=pd.DataFrame(np.eye(len(recallers)), index=list(recallers), columns=list(recallers)),
        cases=extreme_cases(comparison, judged, prepared.corpus, prepared.windows, FOCUS, best),
        coverage=join_coverage([coverage_of(recallers, *of_block) for of_block in listed_blocks(prepared, rows)]),
        lift=lift_at(comparison, judged, users, lifted, config.evaluation, config.seed),
        beyond=beyond_accuracy(judged, methods, recallers, popularity, config.fusion.k),
        popularity=mean_popularity(targets, popularity),
        shifts=(),
        drivers=drivers_of(recallers, comparison.method(FOCUS).weights.numpy(), numbers, names),
    )
    out.mkdir()
    save_report(report, out)
    write_report(report, out)
    return len(methods), sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
