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

from softgrpo.config import ExperimentConfig
from softgrpo.errors import RecallerError
from softgrpo.reporting import ProgressBar
from softgrpo.stages.contract import Node, Stage, StageContext

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
