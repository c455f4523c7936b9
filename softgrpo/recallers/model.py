"""What a trained recaller can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class RecallerModel(Protocol):
    """A trained recaller. Legend: B windows, I items of the corpus."""

    @property
    def name(self) -> str:
        """RecBole's name of the model."""

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """Scores every item of the corpus for B users.

        Args:
            users: (B,) user ids.
            histories: B arrays of item ids, oldest first: everything before the window.

        Returns:
            (B, I) float32 in a new tensor, which the caller may change; higher is better; -inf for items that the recaller was
            never trained on, and in the whole row of a user about whom it knows nothing.

        Raises:
            RecallerError: A score is NaN or infinite.
        """

    def save(self, folder: Path) -> None:
        """Writes the recaller into a folder (safetensors and JSON)."""
