"""What the stages sft and grpo share: arguments, validation NDCG, the best model by it, curves. Legend: B prompts, M recallers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerState

from softgrpo.algorithm.prompt_trainer import CHECKPOINTING
from softgrpo.config import FusionConfig, TrainConfig
from softgrpo.policy.model import restore_state, trainable_state
from softgrpo.ranking.bounds import within_bounds
from softgrpo.reporting import BEST_METRIC, Reporter
from softgrpo.stages.callbacks import best_evaluation, evaluations


def ranking_metrics(
    reward: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    recallers: Sequence[str],
    tau: float,
    share: float = 1.0,
    fusion: FusionConfig | None = None,
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Returns a metric function over validation windows.

    Args:
        reward: (weights (B, G, M), batch with `index`) to NDCG (B, G).
        recallers: The M names.
        tau: Temperature of the second reading, `softmax(z / tau)`.
        share: Windows that were asked about, of all; in the others NDCG is 0 whatever the weights.
        fusion: The merge, whose bounds the mean weights keep; None has none. The reward keeps them by itself.

    Returns:
        A function that gives ndcg_multi (softmax(z)), ndcg_multi_tau (softmax(z / tau)), ndcg_best_reading (the better of
        the two, which models are chosen by), ndcg_single (argmax), and the mean weights over what was asked.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = torch.as_tensor(np.asarray(prediction.predictions)).float()
        batch = {"index": torch.as_tensor(np.asarray(prediction.label_ids))}
        multi = logits.softmax(-1)
        single = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        rewards = reward(torch.stack([multi, (logits / tau).softmax(-1), single], dim=1), batch).double().mean(0)
        names = ("ndcg_multi", "ndcg_multi_tau", "ndcg_single")
        metrics = dict(zip(names, (share * rewards).tolist(), strict=True))
        metrics["ndcg_best_reading"] = max(metrics["ndcg_multi"], metrics["ndcg_multi_tau"])
        kept = multi if fusion is None else within_bounds(multi, fusion)
        return metrics | {f"weight_{name}": float(w) for name, w in zip(recallers, kept.mean(0), strict=True)}

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
    own_rows, own_passes = config.share(training_processes())
    steps = math.ceil(math.ceil(rows / batch) * epochs) * iterations
    logging_steps = max(1, min(10, steps // 10))
    unit = math.lcm(iterations, logging_steps)  # a checkpoint falls between sets of samples, and between two logs
    every = math.ceil(max(steps, 1) / config.evaluations / unit) * unit  # the last step is evaluated in any case
    return {
        "output_dir": str(work / "checkpoints"),
        "learning_rate": learning_rate,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": own_rows,
        "gradient_accumulation_steps": own_passes,
        "per_device_eval_batch_size": config.eval_batch_size,
        "warmup_steps": config.warmup_steps,
        "lr_scheduler_type": config.lr_scheduler,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.bf16,
        CHECKPOINTING: config.gradient_checkpointing,
        "train_sampling_strategy": "group_by_length" if config.group_by_length else "random",
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


def training_processes() -> int:
    """Returns how many processes train together with this one, itself included."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def train_keeping_best(trainer: Trainer, work: Path, reporter: Reporter) -> dict[str, float]:
    """Trains from the last checkpoint, if there is one, and leaves the best model by validation NDCG in the trainer.

    The model that training started from is one of the candidates, so that a stage never gives back something worse on validation.
    NDCG is that of the better reading, see `ranking_metrics`.

    Returns:
        Final numbers: best_ndcg, best_step (0 is the start), start_ndcg, steps, validation_windows_read.

    Raises:
        TrainingError: The loss or a reward is not finite, or the checkpoint is one of another model.
    """
    assert trainer.model is not None and isinstance(trainer.eval_dataset, Sized)
    trainer.remove_callback(PrinterCallback)  # the numbers go to the reporter and the bar
    start = trainable_state(trainer.model)
    checkpoint = last_checkpoint(work / "checkpoints")
    if checkpoint is not None:
        reporter.info(f"resuming from {checkpoint.name}")
        if has_ended(checkpoint):  # its last step, or an early stop: only the best model is still to be loaded
            trainer.args.num_train_epochs = 0.0
    if (
        trainer.args.process_index
    ):  # dropout of its own; transformers seeds all processes alike, and a checkpoint holds each state
        torch.manual_seed(trainer.args.seed + trainer.args.process_index)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.state.global_step < trainer.state.max_steps:
        reporter.info(f"stopped early, behind step {trainer.state.global_step} of {trainer.state.max_steps}")
    values = evaluations(trainer.state)
    best_step = best_evaluation(values)
    if best_step == 0:
        restore_state(trainer.model, start)
        reporter.info("no evaluation beats the starting point on validation windows: it is kept")
    return {
        "best_ndcg": values[best_step],
        "best_step": float(best_step),
        "start_ndcg": values[0],
        "steps": float(trainer.state.global_step),
        "validation_windows_read": float(len(trainer.eval_dataset)),
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


def evaluation_at(drawn: Mapping[str, Mapping[str, Sequence[float]]], step: float) -> dict[str, float]:
    """Returns the numbers of one evaluation, without `eval_` before their names.

    Args:
        drawn: From `curves`.
        step: Step of the evaluation.
    """
    points = {
        name.removeprefix("eval_"): dict(zip(points["step"], points["value"], strict=True))
        for name, points in drawn.items()
        if name.startswith("eval_")
    }
    return {name: values[step] for name, values in points.items() if step in values}


STATE_FILE = "trainer_state.json"


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the newest usable checkpoint; the others are removed.

    Unusable: incomplete (the process died while writing), or the best model that it speaks of is gone.
    """
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in checkpoints:
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
