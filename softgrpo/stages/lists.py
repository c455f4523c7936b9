"""What the stages `recall` of all recallers that work here share: curves, and candidate lists, made, checked and written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from softgrpo.common.artifacts import CANDIDATES, CURVES
from softgrpo.common.names import TEXT, recaller_and_fold
from softgrpo.common.records import CandidateLists, Part
from softgrpo.errors import RecallerError
from softgrpo.recallers.candidate_checks import Positions, check_candidates
from softgrpo.recallers.candidates import BLOCK, Scorer, build_candidates
from softgrpo.recallers.stored_lists import ListsWriter
from softgrpo.reporting import ProgressBar, Reporter
from softgrpo.stages.contract import LIST_MILLISECONDS, StageContext
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, Piece, PieceMaker, array_text, cut, packed, text_array, unpack
from softgrpo.stages.stored_recallers import open_stored, open_text


@dataclass(frozen=True)
class CurveKeeper:
    """A reporter that also keeps the curves.

    Attributes:
        reporter: Receives all that this one receives.
        curves: Name to `step` and `value`, as the trainings of the language model store them.
    """

    reporter: Reporter
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Takes one point of each named curve."""
        for name, value in values.items():
            points = self.curves.setdefault(name, {"step": [], "value": []})
            points["step"].append(float(step))
            points["value"].append(float(value))
        self.reporter.metrics(values, step)

    def info(self, message: str) -> None:
        """Takes one line for the log."""
        self.reporter.info(message)

    def write(self, folder: Path) -> None:
        """Writes the curves into the folder of a stage."""
        (folder / CURVES).write_text(json.dumps(self.curves), encoding="utf-8")


def open_scorer(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens a recaller, whose files are in `common` where it is elsewhere: `items` and `scores` (w, D)."""
    name, batch_size = array_text(common["name"]), int(common["batch_size"])
    windows, depth = opened.views[int(common["fold"])].windows, opened.config.recall.depth
    scorer = opened.scorer
    if scorer is None:
        folder = Path(opened.scratch.name)
        unpack(common, model := folder / "model")
        if name == TEXT:
            assert opened.embeddings is not None
            scorer = open_text(opened.config, opened.embeddings, model, folder)
        else:
            scorer, _ = open_stored(name, opened.corpus, model)

    def make(piece: Piece) -> Arrays:
        items, scores = build_candidates(scorer, opened.corpus, windows.at(piece.rows), depth, batch_size)
        return {"items": items, "scores": scores}

    return make


def write_lists(
    context: StageContext, opened: Opened, scorer: Scorer, model: Path, batch_size: int, fold: int = 0
) -> dict[str, float]:
    """Writes a recaller's candidate lists for the windows of a view, a piece at a time.

    Args:
        context: Of the stage.
        opened: The stages before.
        scorer: The recaller.
        model: Folder of its files, or of its adapter; there is none where it has learnt nothing.
        batch_size: Windows scored at a time.
        fold: Number of the view.

    Returns:
        The stage's final metrics.

    Raises:
        RecallerError: All lists of the validation windows, or of the windows of that part of the users, are empty.
    """
    name, _ = recaller_and_fold(context.variant)
    windows, depth = opened.views[fold].windows, context.config.recall.depth
    judged = windows.part == (Part.EARLIER if fold else Part.VALID)
    common = {"name": text_array(name), "batch_size": np.array(batch_size), "fold": np.array(fold), **packed(model)}
    opened.scorer = scorer
    started, positions, listed, useful = time.perf_counter(), Positions(opened.corpus), 0, 0
    size = max(1, BLOCK // batch_size) * batch_size  # of whole batches
    with (
        ListsWriter(context.out / CANDIDATES, (name,), depth, len(windows)) as writer,
        ProgressBar(total=len(windows), desc=f"{context.variant} candidates", unit="window", mininterval=0.5) as bar,
    ):
        asked = list(cut(0, len(windows), size))
        for piece, made in zip(asked, context.pieces.make(open_scorer, opened, common, asked), strict=True):
            lists = CandidateLists((name,), made["items"][:, None], made["scores"][:, None])
            check_candidates(lists, opened.corpus, windows.at(piece.rows), positions, piece.rows.start)
            writer.write(lists)
            found = lists.items[:, 0] >= 0
            listed += int(found.sum())
            useful += int(found[judged[piece.rows]].sum())
            bar.update(len(piece))
    milliseconds = 1000 * (time.perf_counter() - started) / len(windows)
    context.reporter.metrics({LIST_MILLISECONDS: milliseconds}, 0)  # a time is no part of what is stored
    if not useful:
        raise RecallerError(
            f"{context.variant} gives no candidate at all",
            "a recaller ranks at least one unseen item",
            "Drop it",
            code="RECALLER-016",
        )
    # how good the lists are is a number of the stage `data`: it depends on fusion.k, which must not train recallers anew
    return {"mean_list_length": listed / len(windows)}
