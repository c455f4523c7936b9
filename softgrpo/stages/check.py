"""Stage `check`: whether anything leaks, in what the stages before it stored. It fails where something does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from softgrpo.common.artifacts import PROMPTS
from softgrpo.common.names import TEXT
from softgrpo.config import ExperimentConfig
from softgrpo.data.cross_fit import check_parts
from softgrpo.data.windows import check_no_leak, load_windows
from softgrpo.policy.features import ListNumbers
from softgrpo.recallers.evidence import training_input
from softgrpo.stages.checked import COUNTS, open_checks, pieces_of_users
from softgrpo.stages.contract import StageContext
from softgrpo.stages.hiding import check_levels, check_one_per_window
from softgrpo.stages.leakage import check_nobody_left_out, check_same_windows, check_shapes, check_training_input
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays
from softgrpo.stages.user_vectors import check_projections, load_projections, read_vectors


def check_recallers(context: StageContext, opened: Opened) -> int:
    """Looks for targets in what the recallers of all views were trained on; returns how many it looked for.

    Raises:
        LeakageError: There are some, or anything else from behind a recaller's own part of a user's sequence.
    """
    config, inputs = context.config, context.inputs
    return sum(
        check_training_input(view.node(name), *training_input(inputs[view.node(name)]), opened.corpus, view.windows)
        for view in opened.views
        for name in config.recall.recallers
        if name not in (*config.recall.files, *untrained(config))
    )


def check_stored(context: StageContext, opened: Opened, projections: Arrays) -> dict[str, int]:
    """Looks for leaks in the lists, features, numbers and prompts of all windows, a piece at a time.

    Args:
        context: Of the stage.
        opened: What it reads.
        projections: Of the recallers' user vectors.

    Returns:
        What it looked at, by name.

    Raises:
        LeakageError: Something leaks.
        CandidateError: A list is not what it has to be.
    """
    counts = np.zeros(len(COUNTS), dtype=np.int64)

    def counted() -> Iterator[Arrays]:
        for made in context.pieces.make(open_checks, opened, projections, pieces_of_users(opened)):
            np.add(counts, made["counts"], out=counts)
            yield made

    shapes = ListNumbers.join(counted(), len(opened.windows))
    for view in opened.views:
        check_shapes(opened.prepared.features, shapes.rows(view.rows), view)
    return dict(zip(COUNTS, counts.tolist(), strict=True))


def untrained(config: ExperimentConfig) -> list[str]:
    """Returns the recallers of the pool that are trained on nothing."""
    return [name for name in config.recall.recallers if name == TEXT and config.text.adapter == "off"]


def run(context: StageContext) -> dict[str, float]:
    config, inputs = context.config, context.inputs
    opened = Opened(config, inputs)
    corpus, views, windows = opened.corpus, opened.views, opened.windows
    check_no_leak(corpus, opened.of_split)
    check_parts(corpus, opened.of_split, [view.windows for view in views[1:]])
    looked_for = check_recallers(context, opened)
    nobody_left_out = check_nobody_left_out(corpus, opened.of_split, config.split)
    if len(views) > 1:
        check_same_windows(load_windows(inputs["data"]), windows)
    stored = opened.prepared
    check_one_per_window(
        {
            "candidate lists": stored.stored_lists.windows,
            "rows of features": len(stored.features.ndcg),
            "rows of numbers": len(stored.numbers.values),
            "prompts": pq.read_metadata(inputs["data"] / PROMPTS).num_rows,
        },
        windows,
    )
    check_levels(stored.numbers, windows)
    projections = load_projections(inputs["data"])
    if projections:
        check_projections(read_vectors(projections, config, opened.recallers), corpus, opened.of_split)
    of_windows = check_stored(context, opened, projections)
    checked = {
        "targets_looked_for_in_training_inputs": looked_for,
        "candidates_not_in_histories": of_windows.pop("candidates_not_in_histories"),
        "users_with_a_test_window": nobody_left_out,
        **of_windows,
        **({"windows_added_by_cross_fitting": len(windows) - len(opened.of_split)} if len(views) > 1 else {}),
        "recallers_trained_elsewhere": len(config.recall.files),
        "recallers_trained_on_nothing": len(untrained(config)),
    }
    (context.out / "leakage.json").write_text(json.dumps(checked, indent=2), encoding="utf-8")
    context.reporter.info(
        "no leak: " + ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in checked.items())
    )
    if config.recall.files:
        names = ", ".join(config.recall.files)
        context.reporter.info(f"what {names} was trained on is not known here and was not checked")
    return {what: float(number) for what, number in checked.items()}
