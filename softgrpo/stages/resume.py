"""Which checkpoint a training goes on from, and whether there is anything left to train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import TrainerState

STATE_FILE = "trainer_state.json"


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the newest usable checkpoint; the others are removed.

    Unusable: incomplete (the process died while writing), or the best model that it speaks of is gone.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        try:
            state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            state = None
        if state is not None and Path(state.get("best_model_checkpoint") or checkpoint).is_dir():
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def has_ended(checkpoint: Path) -> bool:
    """Tells whether the training that wrote a checkpoint was to make no further step."""
    control = TrainerState.load_from_json(str(checkpoint / STATE_FILE)).stateful_callbacks["TrainerControl"]
    return bool(control["args"]["should_training_stop"])
