"""A stage whose training needs no model, for processes that train together; what it does is its variant."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from softgrpo.errors import RecallerError
from softgrpo.reporting import ProgressBar
from softgrpo.stages.contract import StageContext
from softgrpo.stages.together import train_together

PATIENCE_SECONDS = 60.0


def seen(work: Path) -> dict[int, dict[str, Any]]:
    """Returns what the processes have written down about themselves, by rank."""
    return {int(path.stem): json.loads(path.read_text()) for path in sorted(work.glob("*.json"))}


def run(context: StageContext) -> dict[str, float]:
    return train_together(context, __name__)


def train(context: StageContext) -> dict[str, float]:
    rank, variant = torch.distributed.get_rank(), context.variant
    note = {"pid": os.getpid(), "threads": torch.get_num_threads(), "memory_gb": context.config.limits.memory_gb}
    aside = context.work / f".{rank}"
    aside.write_text(json.dumps(note))
    aside.replace(context.work / f"{rank}.json")
    total = torch.tensor(rank + 1.0)
    torch.distributed.all_reduce(total)
    if rank == 1 and variant == "Refused":
        raise RecallerError("the loss is NaN", "it must be finite", "lower the rate", code="RECALLER-000")
    if rank == 1 and variant == "Broken":
        raise ValueError("a bug")
    if rank == 1 and variant == "Dead":
        os.kill(os.getpid(), signal.SIGKILL)
    if variant == "Slow":
        time.sleep(PATIENCE_SECONDS)
    context.reporter.metrics({"loss": 0.5}, step=3)
    context.reporter.info("half way")
    logging.getLogger("softgrpo.trial").info("logged by %d", rank)
    print("printed")
    with ProgressBar(total=10, desc="steps", delay=0) as bar:
        bar.update(4)
        bar.refresh()
    torch.distributed.all_reduce(total)
    (context.out / "made").write_text(str(rank))
    return {"total": float(total)}
