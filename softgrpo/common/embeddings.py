"""The embeddings of item texts: as a file, and the mean of those of a history's latest items.

The file is one safetensors tensor, which is mapped and not read, so that it may exceed the memory.
Legend: I items, d numbers of an embedding, B histories, n latest items of each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TENSOR = "embeddings"
_ROWS = 4096
"""Rows of zeros that are written at a time."""


def create_embeddings(path: Path, items: int, width: int) -> NDArray[np.float32]:
    """Writes a file of zeros and returns its numbers, (I, d) float32: what is put into them is put into the file.

    All bytes are written at once, so that a full disk is an error here, and not one while the numbers are filled in.

    Args:
        path: The file.
        items: I, at least 1.
        width: d, at least 1.
    """
    tensor = {"dtype": "F32", "shape": [items, width], "data_offsets": [0, 4 * items * width]}
    header = json.dumps({_TENSOR: tensor}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for first in range(0, items, _ROWS):
            file.write(bytes(4 * width * min(_ROWS, items - first)))
    return np.memmap(path, np.float32, "r+", offset=8 + len(header), shape=(items, width))


def load_embeddings(path: Path) -> NDArray[np.float32]:
    """Opens what `create_embeddings` wrote.

    Args:
        path: The file `softgrpo.common.artifacts.EMBEDDINGS` of the stage `embed`.

    Returns:
        (I, d) float32; row i belongs to item i of the corpus. A row has unit length, or holds zeros where the item has no text.
        Changes stay in memory.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        items, width = json.loads(file.read(length))[_TENSOR]["shape"]
    return np.memmap(path, np.float32, "c", offset=8 + length, shape=(items, width))


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns vectors (B, d) scaled to length 1; zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)
    return scaled


def mean_of_latest(
    embeddings: NDArray[np.float32], latest: NDArray[np.int32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:  # fmt: skip
    """Returns the weighted mean embedding of some items, (B, d) of unit length, zeros where there is no item.

    Args:
        embeddings: (I, d).
        latest: (B, n), the latest item first, -1 behind the last.
        weights: (n,) weight of each place.
    """
    return unit_rows(np.einsum("bn,bnd->bd", weights * (latest >= 0), embeddings[latest]))
