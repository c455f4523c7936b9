"""Peak memory of a short SofT-GRPO training, measured in a process of its own; `python -m benchmarks.memory` is that process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.models import SHAPES, Shape, load, make_prompts
from benchmarks.peak import peak_bytes_of_process
from benchmarks.quiet import quieten
from benchmarks.report import Row, comma_separated
from benchmarks.steps import FEW, MANY, grpo_trainer

AIM = 1.1
STEPS = 3


def peak_bytes(device: torch.device) -> int:
    """Returns the largest memory this process has used: on a GPU that of tensors, else all that is resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes_of_process()


def train_shortly(shape: Shape, generations: int, device: torch.device) -> int:
    """Trains a few steps in this process, and returns its peak memory in bytes."""
    loaded = load(shape)
    prompts = make_prompts(shape, shape.batch)
    with TemporaryDirectory() as folder:
        grpo_trainer(loaded, shape, prompts, generations, STEPS, device, folder).train()
    return peak_bytes(device)


def _in_process(shape: Shape, generations: int, device: torch.device) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", shape.name, str(generations), device.type]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    return int(done.stdout.split()[-1])


def measure_memory(shape: Shape, device: torch.device) -> Row:
    """Measures peak memory with 64 samples over 4, same prompts, each in a new process."""
    few, many = (_in_process(shape, generations, device) for generations in (FEW, MANY))
    return Row(
        f"{shape.name}: peak memory at G = {MANY} over G = {FEW}",
        many / few,
        "times",
        at_most=AIM,
        details=comma_separated(
            f"{many / 2**20:.0f} MiB over {few / 2**20:.0f} MiB",
            "tensors on the GPU" if device.type == "cuda" else "the whole process",
            f"{shape.batch} prompts of up to {shape.tokens} tokens",
        ),
    )


if __name__ == "__main__":
    name, generations, device = sys.argv[1:]
    quieten()
    print(train_shortly(SHAPES[name], int(generations), torch.device(device)))
