"""What a policy pays for reading a window's numbers and a prior per window: its step over that of one that reads the prompt alone.

On a CPU it is processor time, which other programs do not lengthen.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.models import RECALLERS, Loaded, Shape, load, make_prompts
from benchmarks.report import Row, comma_separated
from benchmarks.speedups import batches_of, step_of
from benchmarks.steps import encode
from benchmarks.timing import ratio, take_turns
from softgrpo.config import PolicyConfig
from softgrpo.policy.model import Policy, create_policy
from softgrpo.policy.number_scale import NumberScale

SIDES: dict[str, dict[str, Any]] = {
    "numbers in the head": {"numbers": "head"},
    "numbers as soft tokens": {"numbers": "tokens"},
    "a prior per window": {"prior": "gate"},
}
OWN, OTHERS = 14, 5
"""Numbers of each recaller, and those of no recaller: as many as the stage `data` makes for three recallers."""
AIM = 1.03


def measure_window_inputs(shape: Shape, device: torch.device, rounds: int = 9, warm_up: int = 2) -> list[Row]:
    """Measures a step with each of `SIDES` over a step without, in turns; all weights, float32, the same prompts."""
    loaded = load(shape)
    prompts = encode(loaded, make_prompts(shape, shape.batch))
    names = (*(f"{name}: {place}" for name in RECALLERS for place in range(OWN)), *map(str, range(OTHERS)))
    values = np.random.default_rng(0).random((shape.batch, len(names)))
    batch = batches_of(loaded, prompts)
    inputs = {
        "numbers": torch.from_numpy(values).float(),
        "log_prior": torch.full((shape.batch, len(RECALLERS)), -float(np.log(len(RECALLERS)))),
    }
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    rows = []
    with TemporaryDirectory() as folder:
        source = _source(loaded, shape, Path(folder))
        for name, settings in SIDES.items():
            read = {"numbers": "numbers", "prior": "log_prior"}[next(iter(settings))]
            scale = NumberScale.of(names, values)
            sides = {
                "with": step_of(_policy(source, shape, scale, settings).model, [{**batch, read: inputs[read]}], device),
                "without": step_of(_policy(source, shape, scale, {"prior": "static"}).model, [batch], device),
            }
            rows.append(_row(f"{shape.name}: step with {name} over one without", shape, loaded.note,
                             take_turns(sides, rounds, warm_up, device, clock)))  # fmt: skip
    return rows


def _source(loaded: Loaded, shape: Shape, folder: Path) -> str:
    """Returns where the weights are; random ones are written to a folder."""
    if shape.model_name is not None and not loaded.note:
        return shape.model_name
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return str(folder)


def _policy(source: str, shape: Shape, scale: NumberScale, settings: dict[str, Any]) -> Policy:
    uniform = np.full(len(RECALLERS), 1 / len(RECALLERS))
    return create_policy(PolicyConfig(model_name=source, **settings), RECALLERS, shape.tokens, uniform, 0, scale)


def _row(what: str, shape: Shape, note: str, seconds: dict[str, list[float]]) -> Row:
    above, below = (statistics.median(seconds[name]) for name in ("with", "without"))
    prompts = f"{shape.batch} prompts of up to {shape.tokens} tokens"
    details = comma_separated(f"{above:.3f} s over {below:.3f} s", prompts, note)
    return Row(what, ratio(seconds["with"], seconds["without"]), "times", at_most=AIM, details=details)
