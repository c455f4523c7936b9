"""Prompts per second against TRL's GRPOTrainer with completions of one token.

Both sides train all weights of the same language model with the same optimiser, on the same prompts, equally many of them per
optimiser step, G = 16 samples each, beta > 0. TRL generates a token per sample, computes the reference model's and the policy's
log-probabilities of each, and trains; SofT-GRPO computes each prompt once, and its reference logits once before the first step.
Counted are whole steps, data loading and optimiser included; and in each step of SofT-GRPO, on top, a pass of the reference
over the step's prompts, as if no prompt came twice. TRL runs with its own generation (transformers), without vLLM, with a
reward that costs nothing, and with gradient checkpointing off, as SofT-GRPO has it.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from benchmarks.models import Loaded, Shape, load, make_prompts
from benchmarks.report import Row, comma_separated
from benchmarks.steps import arguments, grpo_trainer
from benchmarks.timing import ratio, train_in_turns
from softgrpo.algorithm.batching import predict_logits
from softgrpo.algorithm.trl_trainer import SoftGRPOTrainer

GENERATIONS = 16
ROWS = 16
"""Completions per forward pass of TRL."""
BETA = 0.01
AIM = 16.0


def as_language_model(loaded: Loaded, folder: Path) -> PreTrainedModel:
    """Writes the classifier's body with a language-model head, and returns it; TRL reads its reference from the folder."""
    config = loaded.model.config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    body = {name: value for name, value in loaded.model.state_dict().items() if name.startswith("model.")}
    model.load_state_dict(body, strict=False)
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    written: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return written


def cheap_reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """Returns a reward that costs nothing and differs between completions."""
    return [float(ids[0] % 7) for ids in completion_ids]


def trl_trainer(
    loaded: Loaded, shape: Shape, prompts: list[str], steps: int, device: torch.device, folder: Path
) -> GRPOTrainer:  # fmt: skip
    """Returns TRL's training on the same prompts."""
    common = arguments(str(folder), shape, steps, device)
    rows = min(ROWS, shape.batch * GENERATIONS)
    args = GRPOConfig(
        **{
            **common,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": shape.batch * GENERATIONS // rows,
            "gradient_checkpointing": False,
            "num_generations": GENERATIONS,
            "max_completion_length": 1,
            "beta": BETA,
        }
    )
    return GRPOTrainer(
        model=as_language_model(loaded, folder / "model"),
        reward_funcs=cheap_reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=loaded.tokenizer,
    )


class ReferencePass(TrainerCallback):
    """Adds to every step the cost of the reference logits of its prompts, which the trainer computes once for all steps.

    Args:
        trainer: Whose step holds all of its rows.
        device: Where it computes.
    """

    def __init__(self, trainer: SoftGRPOTrainer, device: torch.device) -> None:
        self._trainer, self._bf16 = trainer, device.type == "cuda"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Computes them; the model has the same shape as the reference."""
        trainer = self._trainer
        rows, size = trainer.train_dataset, args.per_device_train_batch_size
        predict_logits(trainer.model, rows, trainer.data_collator, size, self._bf16, "reference")


def measure_against_trl(shape: Shape, device: torch.device, steps: int = 2, warm_up: int = 1) -> Row:
    """Measures prompts per second of both sides, steps in turns."""
    loaded = load(shape)
    prompts = make_prompts(shape, shape.batch)
    count = warm_up + steps
    with TemporaryDirectory() as name:
        folder = Path(name)
        ours = grpo_trainer(loaded, shape, prompts, GENERATIONS, count, device, str(folder / "ours"))
        ours.add_callback(ReferencePass(ours, device))
        theirs = trl_trainer(loaded, shape, prompts, count, device, folder)
        seconds = train_in_turns({"ours": ours, "theirs": theirs}, warm_up)
    own, other = statistics.median(seconds["ours"]), statistics.median(seconds["theirs"])
    return Row(
        f"{shape.name}: prompts per second, SofT-GRPO over TRL's GRPOTrainer",
        ratio(seconds["theirs"], seconds["ours"]),
        "times as many",
        at_least=AIM,
        details=comma_separated(
            f"{shape.batch / own:.3g} against {shape.batch / other:.3g} prompts/s",
            f"steps of {own:.2f} s against {other:.1f} s",
            f"{shape.batch} prompts of up to {shape.tokens} tokens a step, G = {GENERATIONS}",
            loaded.note,
        ),
    )
