"""What the settings that save memory save: peak memory of two optimiser steps of 64 prompts of 128 tokens, size tiny, on a CPU.

Prints a Markdown table. Run `python examples/step_memory.py` (Linux); it takes about a minute.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainingArguments
from transformers.utils import logging

from softgrpo.algorithm.batching import PromptCollator, PromptRows
from softgrpo.algorithm.sft_trainer import RecallerSFTTrainer
from softgrpo.config import PolicyConfig
from softgrpo.policy.model import create_policy

RECALLERS, ROWS, TOKENS = ("BPR", "SASRec", "ItemKNN"), 128, 128
SETTINGS: dict[str, dict[str, Any]] = {
    "64 prompts at once": {"batch": 64},
    "16 at once, accumulation 4": {"batch": 16},
    "4 at once, accumulation 16": {"batch": 4},
    "64 at once, gradient checkpointing": {"batch": 64, "checkpointing": True},
    "64 at once, LoRA": {"batch": 64, "adapter": "lora"},
}


def peak_mebibytes() -> int:
    """Returns the largest memory that this process has had resident."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) // 1024


def train(report: Connection, batch: int, checkpointing: bool = False, adapter: str = "none") -> None:
    """Trains two steps in this process and sends (memory before, peak) in MiB."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    policy = create_policy(PolicyConfig(adapter=adapter), RECALLERS, TOKENS, np.full(3, 1 / 3), seed=0)  # type: ignore[arg-type]
    tokens = torch.randint(1000, 30000, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
    labels = np.full((ROWS, len(RECALLERS)), 1 / 3, dtype=np.float32)
    before = peak_mebibytes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=64 // batch,
            activation_checkpointing=checkpointing,
            num_train_epochs=1,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        rows = PromptRows(tokens, {"label": labels})
        collator = PromptCollator(policy.tokenizer)
        trainer = RecallerSFTTrainer(model=policy.model, args=arguments, data_collator=collator, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    report.send((before, peak_mebibytes()))


def measure(settings: dict[str, Any]) -> tuple[int, int]:
    """Trains in a new process, so that no setting is measured in the memory of another."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(sending,), kwargs=settings)
    process.start()
    before, peak = receiving.recv()
    process.join()
    return before, peak


def main() -> None:
    """Prints the table."""
    print("| settings | before training | peak | for the steps |\n|---|---|---|---|")
    for name, settings in SETTINGS.items():
        before, peak = measure(settings)
        print(f"| {name} | {before:,} MiB | {peak:,} MiB | {peak - before:,} MiB |", flush=True)


if __name__ == "__main__":
    main()
