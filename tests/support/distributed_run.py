"""What `test_distributed.py` starts in one process and in two: short trainings on the toy problem, their results as files.

accelerate launch --cpu --num_processes 2 tests/support/distributed_run.py FOLDER ACCUMULATION
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import EvalPrediction

from softgrpo.algorithm.batching import PromptRows
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.policy.heads import NumbersHead
from softgrpo.policy.model import trainable_state
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.number_tokens import add_number_tokens, insert_number_tokens
from softgrpo.policy.window_inputs import NUMBERS, hand_over
from tests.support.toy_policy import CLASSES, OPTIMA, toy_encoder, toy_reward, toy_rows, toy_tokenizer

CASES: dict[str, dict[str, Any]] = {
    "group": {"num_iterations": 2},
    "batch": {"scale_rewards": "batch"},
    "numbers": {"learning_rate": 0.05},
    "discrete": {"sampling": "discrete", "scale_rewards": "none", "train_sampling_strategy": "random"},
}
RESUMED = "group"
READS_NUMBERS = "numbers"


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Returns the share of rows whose largest weight is on their colour, and the mean row number seen."""
    colours = [toy_rows().columns["colour"][row] for row in prediction.label_ids]
    right = prediction.predictions.argmax(-1) == OPTIMA.argmax(-1).numpy()[colours]
    return {"right": float(right.mean()), "rows": float(len(prediction.label_ids))}


def reader_of_numbers() -> tuple[nn.Module, PromptRows]:
    """Returns a toy model that reads numbers in its head and as soft tokens, and rows with two numbers each."""
    model, rows = toy_encoder(), toy_rows()
    values = np.random.default_rng(4).normal(size=(len(rows), 2))
    scale = NumberScale.of(("first", "second"), values)
    add_number_tokens(model, scale, (), 32)
    model.classifier = NumbersHead(model.classifier, torch.zeros(CLASSES), scale)
    hand_over(model)
    insert_number_tokens(model)
    return model, PromptRows(rows.input_ids, {**rows.columns, NUMBERS: values.astype(np.float32)})


def make(folder: Path, accumulation: int, case: str) -> SoftGRPOTrainer:
    """Returns a trainer of 2 epochs of 3 groups of 8 rows."""
    model, rows = reader_of_numbers() if case == READS_NUMBERS else (toy_encoder(), toy_rows())
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "optim": "sgd",  # so that a difference is that of the gradients
        "learning_rate": 0.1,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 5,
        "gradient_accumulation_steps": accumulation,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 4,
        "save_steps": 4,
        "metric_for_best_model": "right",
    }
    args = SoftGRPOConfig(**{**settings, **CASES[case]})
    return SoftGRPOTrainer(model, toy_reward, args, rows, toy_tokenizer(), eval_dataset=rows, compute_metrics=accuracy)


def main(folder: Path, accumulation: int) -> None:
    """Trains every case, then one of them again from its checkpoint."""
    runs = {name: (folder / name, None) for name in CASES}
    runs["resumed"] = (folder / "resumed", str(folder / RESUMED / "checkpoint-8"))
    for name, (output, checkpoint) in runs.items():
        trainer = make(output, accumulation, name if name in CASES else RESUMED)
        trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.is_world_process_zero():
            save_file(trainable_state(trainer.model), folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(trainer.state.log_history), encoding="utf-8")
        trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
