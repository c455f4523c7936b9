"""What the stages `recall` of all recallers that work here share: candidate lists, made, checked and written."""

from __future__ import annotations

import time

import numpy as np

from softgrpo.common.artifacts import CANDIDATES
from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.errors import RecallerError
from softgrpo.recallers.candidates import Scorer, build_candidates, check_candidates, write_candidates
from softgrpo.stages.contract import LIST_MILLISECONDS, StageContext


def write_lists(
    context: StageContext, model: Scorer, corpus: Corpus, windows: Windows, batch_size: int
) -> dict[str, float]:  # fmt: skip
    """Writes a recaller's candidate lists for all windows.

    Args:
        context: Of the stage.
        model: The recaller.
        corpus: All interactions.
        windows: All windows.
        batch_size: Windows scored at a time.

    Returns:
        The stage's final metrics.

    Raises:
        RecallerError: All lists of validation windows are empty.
    """
    name = context.variant
    started = time.perf_counter()
    depth = context.config.recall.depth
    items, scores = build_candidates(model, corpus, windows, depth, batch_size, f"{name} candidates")
    milliseconds = 1000 * (time.perf_counter() - started) / len(windows)
    context.reporter.metrics({LIST_MILLISECONDS: milliseconds}, 0)  # a time is no part of what is stored
    lists = CandidateLists((name,), items[:, None], scores[:, None])
    check_candidates(lists, corpus, windows)
    if not (lists.items[windows.of(Part.VALID)] >= 0).any():
        raise RecallerError(
            f"{name} gives no candidate at all",
            "a recaller ranks at least one unseen item",
            "Drop it",
            code="RECALLER-016",
        )
    write_candidates(context.out / CANDIDATES, lists)
    # how good the lists are is a number of the stage `data`: it depends on fusion.k, which must not train recallers anew
    return {"mean_list_length": float(np.mean((lists.items >= 0).sum(2)))}
