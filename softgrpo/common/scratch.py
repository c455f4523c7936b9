"""Room for numbers of every window that need not stay in memory: large ones lie in a file without a name."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

IN_MEMORY = 2**26
"""Bytes of what is kept in memory, at most."""


def scratch(shape: tuple[int, ...], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Returns room for numbers, zeros at first; beyond `IN_MEMORY` it is a temporary file, which goes when nobody uses them.

    The file is in the system's folder for such files, which TMPDIR names.

    Raises:
        OSError: The disk is full.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not where numbers are filled in
        return np.asarray(np.memmap(file, dtype, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape))
