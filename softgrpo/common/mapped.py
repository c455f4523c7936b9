"""Files of safetensors that are mapped, not read: of a large tensor only the rows that somebody looks at come into memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

_TYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32}
_METADATA = "__metadata__"
Shapes = Mapping[str, tuple[int, ...]]


def open_mapped(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Returns the tensors of a file by name, and its metadata. Changes of the tensors stay in memory.

    Raises:
        safetensors.SafetensorError: The file is damaged.
        FileNotFoundError: It is missing.
    """
    with safe_open(path, framework="numpy"):  # which checks that the file is whole
        pass
    whole = np.asarray(np.memmap(path, np.uint8, "c"))
    behind = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8:behind].tobytes())
    metadata = header.pop(_METADATA, {})
    tensors = {}
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        tensors[name] = whole[behind + first : behind + last].view(_TYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return tensors, metadata


def write_header(file: BinaryIO, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, int]:
    """Writes the beginning of a file of float64 tensors as `safetensors.numpy.save_file` does.

    Args:
        file: An empty one.
        shapes: Of the tensors.
        metadata: At most one entry: the library writes several in no order.

    Returns:
        Where each tensor begins in the file.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    places, first = {}, 0
    for name in sorted(shapes):
        last = first + 8 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "F64", "shape": list(shapes[name]), "data_offsets": [first, last]}
        places[name], first = first, last
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + place for name, place in places.items()}
