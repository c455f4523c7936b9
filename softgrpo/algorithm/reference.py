"""The reference policy of the KL divergence: the logits of the model as it was, or a copy that follows the policy.

Legend: N rows, M classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sized
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from transformers import Trainer

from softgrpo.algorithm.batching import PromptCollator, Row, predict_logits
from softgrpo.errors import TrainingError

REFERENCE_MODEL = "reference_model.safetensors"


def compute_reference(trainer: Trainer, rows: Dataset[Row], collator: PromptCollator) -> Tensor:
    """Returns the logits of all N rows, (N, M) float32 on the CPU; each process computes its share.

    Args:
        trainer: Its model is the reference, as it is.
        rows: With `input_ids`.
        collator: Makes batches.
    """
    args = trainer.args
    assert isinstance(rows, Sized) and trainer.model is not None
    own = list(range(args.process_index, len(rows), args.world_size))
    found = predict_logits(
        trainer.model, Subset(rows, own), collator, args.per_device_eval_batch_size, bool(args.bf16), "reference"
    )
    logits = torch.zeros(len(rows), found.shape[1])
    logits[own] = found
    every: Tensor = trainer.accelerator.reduce(logits.to(args.device), "sum")
    return every.cpu()


def copy_as_reference(model: nn.Module) -> nn.Module:
    """Returns a copy of a model that is not trained."""
    reference = copy.deepcopy(model).eval()
    return reference.requires_grad_(False)


def write_reference_model(folder: Path, reference: nn.Module, model: nn.Module) -> None:
    """Writes the weights of a reference model that may differ from the start, those that the model trains."""
    state = dict(reference.named_parameters())
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    save_file({name: state[name].detach().cpu().contiguous() for name in trained}, folder / REFERENCE_MODEL)


def read_reference_model(folder: Path, reference: nn.Module) -> None:
    """Puts the weights that a checkpoint holds into a reference model.

    Raises:
        TrainingError: It holds none.
    """
    if not (folder / REFERENCE_MODEL).is_file():
        raise TrainingError(
            f"checkpoint '{folder.name}' without {REFERENCE_MODEL}",
            "with sync_ref_model a checkpoint holds the reference model of its step",
            "Resume with the settings of the run, or start anew",
            code="TRAINING-028",
        )
    weights: dict[str, Tensor] = load_file(folder / REFERENCE_MODEL)
    with torch.no_grad():
        for name, value in reference.named_parameters():
            if name in weights:
                value.copy_(weights[name])
