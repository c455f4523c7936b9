"""Embeddings of the items' texts, as one stage hands them to others. Legend: I items, d components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

_TENSOR = "embeddings"


def save_embeddings(path: Path, array: NDArray[np.float32]) -> None:
    """Writes embeddings (I, d) as safetensors."""
    save_file({_TENSOR: np.ascontiguousarray(array, dtype=np.float32)}, path)


def load_embeddings(path: Path) -> NDArray[np.float32]:
    """Reads what `save_embeddings` wrote, (I, d): row i is item i of the corpus, of unit length, zeros without a text."""
    return load_file(path)[_TENSOR]
