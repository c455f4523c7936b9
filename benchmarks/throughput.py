"""Prompts per second of a model, and how much of what the device can multiply that is.

Model FLOP of a step: per token 6 times the weights of the layers and the head (2 forward, 4 backward; the embedding table is
looked up and not multiplied), and 12 times layers x width x tokens of the prompt for attention, as if it were not causal
(Chowdhery et al. 2022, "PaLM", appendix B). Optimiser, sampling and reward count as time but not as FLOP. All prompts are
of one length here, so nothing is padded.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.models import Shape, load, make_prompts
from benchmarks.report import Row, comma_separated
from benchmarks.steps import FEW, encode, grpo_trainer
from benchmarks.timing import take_turns, train_in_turns

AIM = 45.0
SIDES = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices that are multiplied."""


def model_flop(model: PreTrainedModel, prompts: int, tokens: int) -> float:
    """Returns the model FLOP of one training step.

    Args:
        model: Trained as a whole.
        prompts: Per step.
        tokens: Of each prompt.
    """
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    weights = sum(weight.numel() for weight in model.parameters()) - table.weight.numel()
    attention = 12 * model.config.num_hidden_layers * model.config.hidden_size * tokens
    return float(prompts * tokens * (6 * weights + attention))


def matrix_rate(device: torch.device) -> float:
    """Returns the measured FLOP/s of a product of two square matrices, in bfloat16 on a GPU and float32 on a CPU."""
    side = SIDES[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product: Callable[[], object] = partial(torch.matmul, left, right)
    seconds = take_turns({"product": product}, rounds=20, warm_up=5, device=device)["product"]
    return 2 * side**3 / statistics.median(seconds)


def measure_throughput(shape: Shape, device: torch.device, steps: int = 20, warm_up: int = 5) -> list[Row]:
    """Measures prompts per second, peak memory (GPU only) and model FLOP/s over the rate of matrix products."""
    loaded = load(shape)
    prompts = make_prompts(shape, shape.batch, shortest=1.0)
    tokens = len(encode(loaded, prompts[:1])[0])
    rate = matrix_rate(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with TemporaryDirectory() as folder:
        trainer = grpo_trainer(loaded, shape, prompts, FEW, warm_up + steps, device, folder)
        seconds = statistics.median(train_in_turns({"ours": trainer}, warm_up)["ours"])
    done = model_flop(loaded.model, shape.batch, tokens) / seconds
    details = comma_separated(f"{shape.batch} prompts of {tokens} tokens, {seconds:.3f} s a step", loaded.note)
    rows = [
        Row(f"{shape.name}: prompts per second", shape.batch / seconds, "prompts/s", details=details),
        Row(
            f"{shape.name}: model FLOP/s over matrix products",
            100 * done / rate,
            "%",
            at_least=AIM,
            details=f"{done / 1e12:.3g} of {rate / 1e12:.3g} TFLOP/s measured",
        ),
    ]
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        rows.append(Row(f"{shape.name}: peak memory", peak, "GiB", details="tensors on the GPU"))
    return rows
