"""What a trainer's checkpoint belongs to: it is resumed with the model and the classes that it was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from softgrpo.errors import TrainingError

CARD, REFERENCE = "origin.json", "reference.safetensors"
Origin = dict[str, str]


def _digest(tensors: Mapping[str, Tensor], content: bool) -> str:
    """Returns a digest of names, shapes and types, and of the bytes if wanted."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if content:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def describe(model: nn.Module, classes: Sequence[str]) -> Origin:
    """Returns what tells a model in training from others: its type, its classes, what is trained and what is frozen.

    Args:
        model: As it is before a checkpoint is loaded.
        classes: Names of the M classes, in the order of the logits.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    places = {value.data_ptr() for value in trained.values()}  # weights may go by two names
    # peft keeps the head as it was before training beside the trained one; it plays no part
    frozen = {
        name: value
        for name, value in model.state_dict().items()
        if value.data_ptr() not in places and "original_module" not in name
    }
    return {
        "type": type(model).__name__,
        "classes": ", ".join(classes),
        "trained weights": _digest(trained, content=False),
        "frozen weights": _digest(frozen, content=True),
    }


def write_origin(folder: Path, origin: Origin) -> None:
    """Writes a description into a checkpoint's folder, which need not be there yet."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / CARD).write_text(json.dumps(origin, indent=2), encoding="utf-8")


def check_origin(folder: Path, origin: Origin) -> None:
    """Checks that a checkpoint belongs to a model; transformers would only warn of weights that do not fit.

    Raises:
        TrainingError: It belongs to another one, or says nothing about it.
    """
    if not (folder / CARD).is_file():
        raise TrainingError(
            f"checkpoint '{folder.name}' without {CARD}",
            "a checkpoint says which model it belongs to",
            "Name a checkpoint that this trainer wrote",
            code="TRAINING-004",
        )
    stored = json.loads((folder / CARD).read_text(encoding="utf-8"))
    for name, value in origin.items():
        if stored[name] != value:
            raise TrainingError(
                f"checkpoint '{folder.name}' of another model: its {name}: {stored[name]}",
                f"training resumes with the same model and classes; this model's {name}: {value}",
                "Resume with the model that the checkpoint was made with, or start anew in another folder",
                code="TRAINING-005",
            )


def write_reference(folder: Path, logits: Tensor) -> None:
    """Writes reference logits (N, M) into a checkpoint's folder."""
    save_file({"logits": logits}, folder / REFERENCE)


def read_reference(folder: Path, rows: int) -> Tensor:
    """Returns the reference logits (N, M) of a checkpoint.

    Args:
        folder: The checkpoint.
        rows: Number of training rows, N.

    Raises:
        TrainingError: It has none, or they are of another number of rows.
    """
    if not (folder / REFERENCE).is_file():
        raise TrainingError(
            f"checkpoint '{folder.name}' without reference logits",
            "beta > 0 needs the logits of the model that training began with",
            "Resume with beta = 0, as the run began, or start anew",
            code="TRAINING-006",
        )
    logits = load_file(folder / REFERENCE)["logits"]
    if len(logits) != rows:
        raise TrainingError(
            f"checkpoint '{folder.name}' of a run on {len(logits)} rows",
            f"training resumes with the same rows; there are {rows}",
            "Resume with the data of the run, or start anew",
            code="TRAINING-007",
        )
    return logits
