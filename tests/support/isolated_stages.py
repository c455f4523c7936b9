"""Stages that can run in a process of their own, where nothing of a test is; what they do is their variant."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from softgrpo.config import ExperimentConfig
from softgrpo.errors import RecallerError
from softgrpo.reporting import ProgressBar
from softgrpo.stages.contract import Node, Stage, StageContext
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, Piece, PieceMaker, cut

PATIENCE_SECONDS = 60.0


def seen(root: Path) -> dict[str, dict[str, Any]]:
    """Returns what the stages of a store have written down about themselves, by variant."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((root / "seen").glob("*.json"))}


def _note(context: StageContext) -> Path:
    """Writes down which process this is; returns the folder of these notes."""
    folder = context.out.parents[1] / "seen"
    folder.mkdir(exist_ok=True)
    aside = folder / f".{context.variant}"
    aside.write_text(json.dumps({"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}))
    aside.replace(folder / f"{context.variant}.json")
    return folder


def _say(context: StageContext) -> None:
    context.reporter.metrics({"loss": 0.5, "bad": float("nan")}, step=3)
    context.reporter.info("half way")
    logging.getLogger("softgrpo.trial").info("logged")
    logging.getLogger("other").info("not worth a line")
    warnings.warn("warned", stacklevel=1)
    print("printed")
    print("also printed", file=sys.stderr)
    with ProgressBar(total=10, desc="steps", delay=0) as bar:
        bar.update(4)
        bar.refresh()


def open_sums(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens the sum of what a piece is given and of what is common; `reverse` is a view that runs backwards."""

    def make(piece: Piece) -> Arrays:
        sums = piece.given["numbers"] + common["more"]
        return {"sums": sums, "reverse": sums[::-1]}

    return make


def open_rows(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens where a piece begins and ends."""
    return lambda piece: {"rows": np.array([piece.rows.start, piece.rows.stop])}


def _ask_for_pieces(context: StageContext) -> None:
    """Has four pieces made and writes down what came of them."""
    wide = np.arange(24.0).reshape(8, 3) + float(os.environ.get("PIECES_START_AT", "0"))
    asked = [Piece(piece.rows, {"numbers": wide[piece.rows, 1]}) for piece in cut(0, 8, 2)]
    opened = Opened(context.config, context.inputs)
    made = list(context.pieces.make(open_sums, opened, {"more": np.array([100.0])}, asked))
    rows = context.pieces.make(open_rows, opened, {}, cut(0, 8, 2))  # all of them are given the same: nothing
    assert [each["rows"].tolist() for each in rows] == [[0, 2], [2, 4], [4, 6], [6, 8]]
    (alone,) = context.pieces.make(open_rows, opened, {}, cut(3, 5, 2))
    assert alone["rows"].tolist() == [3, 5]
    (context.out / "sums").write_text(json.dumps([{name: each[name].tolist() for name in each} for each in made]))


def run(context: StageContext) -> dict[str, float]:
    folder, variant = _note(context), context.variant
    if variant == "Refused":
        raise RecallerError("the loss is NaN", "it must be finite", "lower the rate", code="RECALLER-000")
    if variant == "Broken":
        raise ValueError("a bug")
    if variant == "Hungry":
        bytearray(1 << 62)
    if variant == "Dead":
        os.kill(os.getpid(), signal.SIGKILL)
    if variant == "Pieces":
        _ask_for_pieces(context)
    if variant == "Loud":
        _say(context)
    end = time.monotonic() + PATIENCE_SECONDS
    for other in context.config.recall.settings_of(variant).get("waits_for", {}).get(variant, []):
        while not (folder / f"{other}.json").is_file():
            assert time.monotonic() < end, f"{variant} waits for {other}"
            time.sleep(0.01)
    (context.out / "made").write_text(f"{variant}({sorted(context.inputs)})")
    return {"length": float(len(variant))}


def recaller(variant: str) -> Node:
    """Returns a recaller's node."""

    def parameters(config: ExperimentConfig, variant: str) -> dict[str, Any]:
        return {"variant": variant}

    return Node(f"recall-{variant}", Stage("recall", run, parameters, __name__, ("numpy",)), variant, ("split",))


def waiting(**others: list[str]) -> ExperimentConfig:
    """Returns a configuration in which stages wait until others have begun, by variant."""
    return ExperimentConfig.model_validate({"recall": {"settings": {"all": {"waits_for": others}}}})
