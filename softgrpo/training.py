"""What SFT and SofT-GRPO share: rows and batches of prompts, evaluation by logits, checkpoints, the best model by validation NDCG.

Legend: B prompts, L tokens, M recallers.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import (
    EvalPrediction,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
)

from softgrpo.callbacks import BEST_METRIC
from softgrpo.config import TrainConfig
from softgrpo.policy import restore_state, trainable_state
from softgrpo.stages import Reporter

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
Row = dict[str, Any]


class PromptRows(Dataset[Row]):
    """Rows of a data set, each with its own number under `index`.

    Args:
        input_ids: Token ids per prompt.
        columns: Further columns, one value per prompt each; they reach the loss or the reward in the batch.
    """

    def __init__(self, input_ids: Sequence[Sequence[int]], columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
        self.input_ids = input_ids
        self.columns = columns

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, row: int) -> Row:
        return {
            "input_ids": self.input_ids[row],
            "index": row,
            **{name: values[row] for name, values in self.columns.items()},
        }


class PromptCollator:
    """Pads token ids on the tokenizer's side and stacks all other columns.

    Args:
        tokenizer: Of the language model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Returns input_ids and attention_mask (B, L), and (B, ...) of every other column."""
        padded = self._tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
        batch = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
        for name in rows[0]:
            if name != "input_ids":
                batch[name] = torch.as_tensor(np.stack([np.asarray(row[name]) for row in rows]))
        return batch


def policy_logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Returns the logits of one batch in float32, (B, M)."""
    logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits.float()


class LogitsEvaluation(Trainer):
    """A Trainer whose evaluation gives logits as predictions and row numbers as labels."""

    loss_is_scaled_for_ga = False

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Returns (no loss, logits (B, M), rows (B,))."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return None, policy_logits(model, inputs), inputs["index"]


def predict_logits(
    model: nn.Module, rows: Dataset[Row], collator: PromptCollator, batch_size: int, bf16: bool, label: str
) -> Tensor:  # fmt: skip
    """Returns the logits of all rows in their order, (N, M) float32 on the CPU, with dropout off.

    Args:
        model: The policy's model; where it is, there it computes.
        rows: With `input_ids`.
        collator: Makes batches.
        batch_size: Prompts per forward pass.
        bf16: Compute in bfloat16.
        label: Text before the progress bar.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    loader: DataLoader[Row] = DataLoader(rows, batch_size=batch_size, collate_fn=collator)
    logits = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for batch in tqdm(loader, desc=label, unit="batch", delay=2.0, mininterval=1.0):
            logits.append(policy_logits(model, {name: value.to(device) for name, value in batch.items()}).cpu())
    model.train(training)
    return torch.cat(logits).clone()


def ranking_metrics(
    reward: Callable[[Tensor, Mapping[str, Tensor]], Tensor], recallers: Sequence[str], tau: float
) -> Callable[[EvalPrediction], dict[str, float]]:  # fmt: skip
    """Returns a metric function over validation windows.

    Args:
        reward: (weights (B, G, M), batch with `index`) to NDCG (B, G).
        recallers: The M names.
        tau: Temperature of the second reading, `softmax(z / tau)`.

    Returns:
        A function that gives ndcg_multi (softmax(z)), ndcg_multi_tau (softmax(z / tau)), ndcg_single (argmax), mean weights.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = torch.as_tensor(np.asarray(prediction.predictions)).float()
        batch = {"index": torch.as_tensor(np.asarray(prediction.label_ids))}
        multi = logits.softmax(-1)
        single = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        rewards = reward(torch.stack([multi, (logits / tau).softmax(-1), single], dim=1), batch).double().mean(0)
        metrics = dict(zip(("ndcg_multi", "ndcg_multi_tau", "ndcg_single"), rewards.tolist(), strict=True))
        return metrics | {f"weight_{name}": float(w) for name, w in zip(recallers, multi.mean(0), strict=True)}

    return compute


def common_arguments(
    config: TrainConfig, learning_rate: float, epochs: float, rows: int, seed: int, work: Path, iterations: int = 1
) -> dict[str, Any]:  # fmt: skip
    """Returns the arguments that `TrainingArguments` and `SoftGRPOConfig` share.

    Args:
        config: The shared settings.
        learning_rate: Peak learning rate.
        epochs: Passes over the rows.
        rows: Number of training rows.
        seed: Of the order of rows and of dropout.
        work: Folder of the checkpoints.
        iterations: Optimiser steps per batch of rows; evaluations fall on multiples of it.
    """
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    steps = math.ceil(math.ceil(rows / batch) * epochs) * iterations
    logging_steps = max(1, min(10, steps // 10))
    unit = math.lcm(iterations, logging_steps)  # a checkpoint falls between sets of samples, and between two logs
    every = max(1, round(steps / config.evaluations / unit)) * unit
    return {
        "output_dir": str(work / "checkpoints"),
        "learning_rate": learning_rate,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "per_device_eval_batch_size": config.eval_batch_size,
        "warmup_steps": config.warmup_steps,
        "lr_scheduler_type": config.lr_scheduler,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.bf16,
        "activation_checkpointing": config.gradient_checkpointing,
        "use_cpu": config.device == "cpu" or not torch.cuda.is_available(),
        "seed": seed,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": BEST_METRIC,
        "greater_is_better": True,
        "eval_on_start": True,
        "logging_steps": logging_steps,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }


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


def train_keeping_best(trainer: Trainer, work: Path, reporter: Reporter) -> dict[str, float]:
    """Trains from the last checkpoint, if there is one, and leaves the best model by validation NDCG in the trainer.

    The model that training started from is one of the candidates, so that a stage never gives back something worse on validation.

    Returns:
        Final numbers: best_ndcg, best_step (0 is the start), steps.

    Raises:
        TrainingError: The loss or a reward is not finite.
    """
    assert trainer.model is not None
    trainer.remove_callback(PrinterCallback)  # the numbers go to the reporter and the bar
    start = trainable_state(trainer.model)
    checkpoint = last_checkpoint(work / "checkpoints")
    if checkpoint is not None:
        reporter.info(f"resuming from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    evaluations = {
        int(entry["step"]): entry[BEST_METRIC] for entry in trainer.state.log_history if BEST_METRIC in entry
    }
    best_step = max(sorted(evaluations), key=lambda step: evaluations[step])
    if best_step == 0:
        restore_state(trainer.model, start)
        reporter.info("no evaluation beats the starting point on validation windows: it is kept")
    return {
        "best_ndcg": float(evaluations[best_step]),
        "best_step": float(best_step),
        "start_ndcg": float(evaluations[0]),
        "steps": float(trainer.state.global_step),
    }


def curves(trainer: Trainer) -> dict[str, dict[str, list[float]]]:
    """Returns the curves of a training: name to `step` and `value`; no times, so that equal trainings give equal curves."""
    result: dict[str, dict[int, float]] = {}
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            if (
                name not in ("step", "epoch", "total_flos")
                and not name.endswith(("runtime", "per_second"))
                and "train_" not in name
            ):
                result.setdefault(name, {})[int(entry["step"])] = float(value)
    return {
        name: {"step": [float(step) for step in sorted(points)], "value": [points[step] for step in sorted(points)]}
        for name, points in sorted(result.items())
    }
