"""Training steps: of SofT-GRPO with few and with many samples, and of SFT on the same batch."""

from __future__ import annotations

import copy
import statistics
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from benchmarks.merging import make_problem
from benchmarks.models import RECALLERS, Loaded, Shape, load, make_prompts
from benchmarks.report import Row, comma_separated
from benchmarks.timing import ratio, train_in_turns
from softgrpo.algorithm.batching import PromptCollator, PromptRows
from softgrpo.algorithm.sft_trainer import RecallerSFTTrainer
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.config import FusionConfig
from softgrpo.ranking.fusion import align
from softgrpo.ranking.rewards import RankingReward

FEW, MANY = 4, 64
LEARNING_RATE = 1e-6
AIM_SAMPLES, AIM_SFT = 1.05, 1.15


def arguments(folder: str, shape: Shape, steps: int, device: torch.device) -> dict[str, Any]:
    """Returns what all trainings share: plain AdamW on all weights, one forward pass per step, bfloat16 on a GPU only."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": shape.batch,
        "optim": "adamw_torch_fused",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "bf16": device.type == "cuda",
        "use_cpu": device.type == "cpu",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def encode(loaded: Loaded, prompts: list[str]) -> list[list[int]]:
    """Returns the token ids of prompts."""
    return list(loaded.tokenizer(prompts)["input_ids"])


def grpo_trainer(
    loaded: Loaded, shape: Shape, prompts: list[str], generations: int, steps: int, device: torch.device, folder: str
) -> SoftGRPOTrainer:  # fmt: skip
    """Returns a SofT-GRPO training of a copy of the model; the reward merges three lists of 100 by the default method."""
    problem = make_problem(windows=len(prompts), samples=1, recallers=len(RECALLERS))
    fusion = FusionConfig()
    reward = RankingReward(align(problem.items, problem.scores, fusion), problem.targets, fusion)
    return SoftGRPOTrainer(
        model=copy.deepcopy(loaded.model),
        reward=reward,
        args=SoftGRPOConfig(**arguments(folder, shape, steps, device), num_generations=generations),
        train_dataset=PromptRows(encode(loaded, prompts), {}),
        processing_class=loaded.tokenizer,
    )


def sft_trainer(
    loaded: Loaded, shape: Shape, prompts: list[str], steps: int, device: torch.device, folder: str
) -> RecallerSFTTrainer:  # fmt: skip
    """Returns a supervised training of a copy of the model, with soft labels."""
    labels = torch.rand(len(prompts), len(RECALLERS), generator=torch.Generator().manual_seed(0)).softmax(-1).numpy()
    return RecallerSFTTrainer(
        model=copy.deepcopy(loaded.model),
        args=TrainingArguments(**arguments(folder, shape, steps, device)),
        data_collator=PromptCollator(loaded.tokenizer),
        train_dataset=PromptRows(encode(loaded, prompts), {"label": labels}),
    )


def measure_steps(shape: Shape, device: torch.device, steps: int = 8, warm_up: int = 2) -> list[Row]:
    """Measures SofT-GRPO with 64 samples over 4, and over SFT; every step sees the same batch."""
    loaded = load(shape)
    prompts = make_prompts(shape, shape.batch)
    count = warm_up + steps
    with TemporaryDirectory() as folder:
        trainers: dict[str, Trainer] = {
            "sft": sft_trainer(loaded, shape, prompts, count, device, folder),
            "few": grpo_trainer(loaded, shape, prompts, FEW, count, device, folder),
            "many": grpo_trainer(loaded, shape, prompts, MANY, count, device, folder),
        }
        seconds = train_in_turns(trainers, warm_up)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    batch = f"{shape.batch} prompts of up to {shape.tokens} tokens"
    return [
        Row(
            f"{shape.name}: step at G = {MANY} over G = {FEW}",
            ratio(seconds["many"], seconds["few"]),
            "times",
            at_most=AIM_SAMPLES,
            details=comma_separated(f"{middle['many']:.3f} s over {middle['few']:.3f} s", batch, loaded.note),
        ),
        Row(
            f"{shape.name}: step of SofT-GRPO (G = {FEW}) over SFT",
            ratio(seconds["few"], seconds["sft"]),
            "times",
            at_most=AIM_SFT,
            details=comma_separated(f"{middle['few']:.3f} s over {middle['sft']:.3f} s", batch, loaded.note),
        ),
    ]
