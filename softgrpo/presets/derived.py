"""Settings that follow from the size of the data, for datasets without a preset and recallers that a preset does not mention.

RecBole's own defaults, 300 epochs of whatever there is, fit no dataset in particular. The rules are those that the presets follow:
small data need many short epochs, large data few long ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softgrpo.data.size import DataSize
from softgrpo.recallers.kinds import Kind, kind_of

STEPS_PER_EPOCH = 64  # what the batch is chosen for
BATCHES: dict[Kind, tuple[int, int]] = {
    "users": (32, 512),
    "graph": (2048, 2048),
    "pairs": (64, 2048),
    "sequences": (64, 512),
}
"""Smallest and largest batch. A batch of a graph model costs as much as the graph, so it is large."""
EXAMPLES = {"users": 100_000, "graph": 2_000_000, "pairs": 2_000_000, "sequences": 300_000}
"""What a recaller sees in all, as far as the number of epochs allows."""
EPOCHS: dict[Kind, tuple[int, int]] = {"users": (20, 100), "graph": (20, 60), "pairs": (20, 100), "sequences": (5, 20)}
"""Fewest and most epochs. A position of a sequence costs about fifty times what a pair does."""
SEQUENCE_LENGTH = 20
POSITIONS = 60_000  # of sequences, per epoch
FEWEST_TARGETS = 5
MOST_TRAIN_WINDOWS, MOST_VALID_WINDOWS = 4_000, 2_000


def _within(value: float, bounds: tuple[int, int]) -> int:
    return min(max(round(value), bounds[0]), bounds[1])


def _batch(examples: int, bounds: tuple[int, int]) -> int:
    """Returns the power of two at or below `examples / STEPS_PER_EPOCH`, within the bounds, which are powers of two."""
    return _within(1 << max(0, (examples // STEPS_PER_EPOCH).bit_length() - 1), bounds)


def targets_per_user(size: DataSize) -> int | None:
    """Returns how many positions of each user sequential recallers train on, None for all."""
    if size.training <= POSITIONS:
        return None
    return max(FEWEST_TARGETS, POSITIONS // size.users)


def is_trained(name: str) -> bool:
    """Tells whether a RecBole model has settings that follow from the size of the data: those worked out at once have none."""
    return kind_of(name) != "computed"


def recaller_settings(name: str, size: DataSize) -> dict[str, int]:
    """Returns RecBole's settings of one recaller: epochs, batch and early stopping, and the length of sequences.

    Args:
        name: A RecBole model.
        size: Of the data.

    Returns:
        Nothing for a model that is worked out at once.
    """
    if not is_trained(name):
        return {}
    kind = kind_of(name)
    examples = {"users": size.users, "sequences": min(size.training, POSITIONS)}.get(kind, size.training)
    epochs = _within(EXAMPLES[kind] / examples, EPOCHS[kind])
    settings = {
        "epochs": epochs,
        "stopping_step": max(2, epochs // 10),
        "train_batch_size": _batch(examples, BATCHES[kind]),
    }
    return settings | ({"MAX_ITEM_LIST_LENGTH": SEQUENCE_LENGTH} if kind == "sequences" else {})


def derived(size: DataSize, recallers: Iterable[str]) -> dict[str, Any]:
    """Returns the settings that follow from the size of the data, as a preset.

    Args:
        size: Of the data.
        recallers: The RecBole models of the pool.
    """
    recall: dict[str, Any] = {
        "settings": {name: found for name in recallers if (found := recaller_settings(name, size))}
    }
    train: dict[str, Any] = {}
    if (targets := targets_per_user(size)) is not None:
        recall["targets_per_user"] = targets
    if size.policy > MOST_TRAIN_WINDOWS:
        train["max_train_windows"] = MOST_TRAIN_WINDOWS
    if size.valid > MOST_VALID_WINDOWS:
        train["max_valid_windows"] = MOST_VALID_WINDOWS
    return {"recall": recall, "train": train}
