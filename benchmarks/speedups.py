"""What makes a supervised step faster on one machine: frozen layers, bfloat16, torch.compile, prompts of similar length together.

Each row is the time of a plain step (all weights, float32, eager) over that of the other, so larger is faster. On a CPU it is
processor time, which other programs do not lengthen.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.models import Loaded, Shape, load, make_prompts
from benchmarks.report import Row, comma_separated
from benchmarks.steps import LEARNING_RATE, encode
from benchmarks.timing import Seconds, ratio, take_turns
from softgrpo.algorithm.batching import GroupSampler, PromptCollator, padding_share, policy_logits
from softgrpo.algorithm.sft_trainer import soft_cross_entropy
from softgrpo.policy.freezing import find_layers, freeze_lower_layers

Batch = dict[str, Tensor]
FASTER = (
    "half of the layers frozen",
    "all layers frozen",
    "bfloat16",
    "half of the layers frozen, bfloat16",
    "torch.compile",
)
BATCHES = 8
SHORTEST = 0.25
"""Share of the longest prompt that the shortest has, where prompts of similar length are put together."""


def batches_of(loaded: Loaded, prompts: Sequence[Sequence[int]]) -> Batch:
    """Returns one batch of token ids."""
    return PromptCollator(loaded.tokenizer)([{"input_ids": ids, "index": row} for row, ids in enumerate(prompts)])


def step_of(
    model: nn.Module, batches: Sequence[Batch], device: torch.device, bf16: bool = False
) -> Callable[[], None]:  # fmt: skip
    """Returns a function that makes one optimiser step on each batch, towards uniform labels."""
    model = model.to(device).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, fused=True)
    placed = [{name: value.to(device) for name, value in batch.items()} for batch in batches]

    def step() -> None:
        for batch in placed:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = policy_logits(model, batch)
                loss = soft_cross_entropy(logits, torch.full_like(logits, 1 / logits.shape[-1]))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return step


def frozen(model: PreTrainedModel, share: float) -> PreTrainedModel:
    """Returns a copy of a model with a share of its layers frozen."""
    other = copy.deepcopy(model)
    freeze_lower_layers(other, math.ceil(share * len(find_layers(other))))
    return other


def measure_speedups(shape: Shape, device: torch.device, rounds: int = 3, warm_up: int = 1) -> list[Row]:
    """Measures a plain step against faster ones, two at a time, so that memory holds two models."""
    loaded = load(shape)
    plain = loaded.model
    batches = [batches_of(loaded, encode(loaded, make_prompts(shape, shape.batch)))]
    others: tuple[Callable[[], Callable[[], None]], ...] = (
        lambda: step_of(frozen(plain, 0.5), batches, device),
        lambda: step_of(frozen(plain, 1.0), batches, device),
        lambda: step_of(copy.deepcopy(plain), batches, device, bf16=True),
        lambda: step_of(frozen(plain, 0.5), batches, device, bf16=True),
        lambda: step_of(torch.compile(copy.deepcopy(plain)), batches, device),  # type: ignore[arg-type]
    )
    rows = []
    for name, make in zip(FASTER, others, strict=True):
        sides = {"plain": step_of(copy.deepcopy(plain), batches, device), "other": make()}
        rows.append(
            _row(f"{shape.name}: step over that with {name}", _turns(sides, rounds, warm_up, device), loaded.note)
        )
    return [*rows, _by_length(loaded, shape, device, rounds, warm_up)]


def _turns(
    sides: Mapping[str, Callable[[], None]], rounds: int, warm_up: int, device: torch.device
) -> dict[str, Seconds]:  # fmt: skip
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    return take_turns(sides, rounds, warm_up, device, clock)


def _row(what: str, seconds: dict[str, Seconds], note: str) -> Row:
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    details = comma_separated(f"{middle['plain']:.3f} s over {middle['other']:.3f} s", note)
    return Row(what, ratio(seconds["plain"], seconds["other"]), "times", details=details)


def _by_length(loaded: Loaded, shape: Shape, device: torch.device, rounds: int, warm_up: int) -> Row:
    """Measures steps on the same prompts, put together at random and by length."""
    prompts = encode(loaded, make_prompts(shape, BATCHES * shape.batch, SHORTEST))
    lengths = np.array([len(ids) for ids in prompts])
    orders = {"plain": None, "other": lengths}
    sides, shares = {}, {}
    for name, known in orders.items():
        order = np.array(list(GroupSampler(len(prompts), shape.batch, 1, 0, known)))
        groups = order.reshape(-1, shape.batch)
        batches = [batches_of(loaded, [prompts[row] for row in group]) for group in groups]
        sides[name] = step_of(copy.deepcopy(loaded.model), batches, device)
        shares[name] = padding_share(lengths[order], shape.batch)
    what = f"{shape.name}: steps on prompts at random over those by length"
    padding = f"padding {shares['plain']:.0%} and {shares['other']:.0%} of the tokens"
    return _row(what, _turns(sides, rounds, warm_up, device), comma_separated(padding, loaded.note))
