"""Where the time of a SofT-GRPO step goes: forward, backward, and everything else."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.models import Shape, load, make_prompts
from benchmarks.report import Row, comma_separated
from benchmarks.steps import FEW, grpo_trainer
from benchmarks.timing import synchronise
from softgrpo.algorithm.trl_trainer import SoftGRPOTrainer

AIM = 10.0
BATCHES = 8


class Parts(TrainerCallback):
    """Adds up the seconds of the parts of training steps, from the end of the warm-up on.

    Args:
        device: Where they compute.
        warm_up: Steps that do not count.
    """

    def __init__(self, device: torch.device, warm_up: int) -> None:
        self._device, self._warm_up = device, warm_up
        self._started: dict[str, float] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def start(self, name: str) -> None:
        """Begins a part."""
        synchronise(self._device)
        self._started[name] = time.perf_counter()

    def stop(self, name: str) -> None:
        """Ends a part."""
        synchronise(self._device)
        self.seconds[name] += time.perf_counter() - self._started[name]

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, its calls measured as a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.start(name)
            result = function(*args, **kwargs)
            self.stop(name)
            return result

        return call

    def watch(self, trainer: SoftGRPOTrainer) -> None:
        """Measures the parts of a trainer's steps."""
        assert isinstance(trainer.model, nn.Module)
        trainer.model.register_forward_pre_hook(lambda *_: self.start("forward"))
        trainer.model.register_forward_hook(lambda *_: self.stop("forward"))
        vars(trainer.rewards)["of"] = self.around("reward", trainer.rewards.of)
        trainer.accelerator.backward = self.around("backward", trainer.accelerator.backward)
        trainer.accelerator.clip_grad_norm_ = self.around("clipping", trainer.accelerator.clip_grad_norm_)
        trainer.add_callback(self)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins the optimiser's part."""
        self.start("optimiser")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the optimiser's part."""
        self.stop("optimiser")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Forgets the warm-up; at the last step, ends the whole."""
        if state.global_step == self._warm_up:
            self.seconds.clear()
            self.start("step")
        elif state.global_step == state.max_steps:
            self.stop("step")


def measure_share(shape: Shape, device: torch.device, steps: int = 20, warm_up: int = 3) -> Row:
    """Measures the share of SofT-GRPO's steps that is neither forward nor backward."""
    loaded = load(shape)
    prompts = make_prompts(shape, BATCHES * shape.batch)
    parts = Parts(device, warm_up)
    with TemporaryDirectory() as folder:
        trainer = grpo_trainer(loaded, shape, prompts, FEW, warm_up + steps, device, folder)
        trainer.remove_callback(PrinterCallback)
        parts.watch(trainer)
        trainer.train()
    seconds = dict(parts.seconds)
    whole = seconds.pop("step")
    seconds["all else"] = whole - sum(seconds.values())
    split = [f"{name} {100 * value / whole:.1f} %" for name, value in seconds.items()]
    return Row(
        f"{shape.name}: share of a step that is not forward or backward (G = {FEW})",
        100 * (1 - (seconds["forward"] + seconds["backward"]) / whole),
        "%",
        at_most=AIM,
        details=comma_separated(f"{whole / steps:.3f} s a step", *split, loaded.note),
    )
