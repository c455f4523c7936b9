"""Item-based recallers, which are one matrix between items: ItemKNN, EASE, SLIMElastic, ADMMSLIM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from softgrpo.errors import RecallerError


def multi_hot(histories: Sequence[NDArray[np.integer[Any]]], num_items: int) -> sp.csr_matrix:
    """Returns the histories as a sparse 0/1 matrix, (B, num_items) float32."""
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    items = np.concatenate([np.empty(0, dtype=np.int64), *histories])
    matrix = sp.csr_matrix((np.ones(len(items), np.float32), items, offsets), shape=(len(histories), num_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


@dataclass(frozen=True)
class SimilarityRecaller:
    """Scores are `history @ matrix + offset`, with the full history before the window as input.

    Without an offset, a score of exactly 0 says that no item of the history is related; it becomes -inf, because an order
    among such items would be the order of their ids.

    Attributes:
        name: RecBole's name of the model.
        matrix: (I, I) float32, sparse or dense as RecBole computes it; row: item of the history, column: item to score.
        offset: (I,) float32, or None (ADMMSLIM alone has one: its scores are around the items' mean popularity).
        trained: (I,) bool, items that the training data hold.
    """

    name: str
    matrix: sp.csr_matrix | NDArray[np.float32]
    offset: NDArray[np.float32] | None
    trained: NDArray[np.bool_]

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """See `RecallerModel.score`; who the users are does not matter."""
        product = multi_hot(histories, len(self.trained)) @ self.matrix
        scores = np.asarray(product.toarray() if sp.issparse(product) else product, dtype=np.float32)
        linked = scores != 0.0 if self.offset is None else np.ones_like(scores, dtype=np.bool_)
        if self.offset is not None:
            scores = scores + self.offset
        if not np.isfinite(scores[:, self.trained]).all():
            raise RecallerError(
                f"{self.name} gave a score that is not a number",
                "Scores are finite",
                "Regularise it more",
                code="RECALLER-015",
            )
        return torch.from_numpy(np.where(linked & self.trained, scores, np.float32(-np.inf)))

    def save(self, folder: Path) -> None:
        """See `RecallerModel.save`; writes `recaller.json` and `model.safetensors`."""
        arrays: dict[str, NDArray[Any]] = {"trained": self.trained}
        if isinstance(self.matrix, np.ndarray):
            arrays["matrix"] = self.matrix
        else:
            arrays |= {"data": self.matrix.data, "indices": self.matrix.indices, "indptr": self.matrix.indptr}
        if self.offset is not None:
            arrays["offset"] = self.offset
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recaller.json").write_text(json.dumps({"kind": "similarity", "name": self.name}), encoding="utf-8")
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> SimilarityRecaller:
        """Reads what `save` wrote."""
        name = json.loads((folder / "recaller.json").read_text(encoding="utf-8"))["name"]
        arrays = load_file(folder / "model.safetensors")
        size = len(arrays["trained"])
        if "matrix" in arrays:
            matrix = arrays["matrix"]
        else:
            matrix = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(size, size))
        return cls(name, matrix, arrays.get("offset"), arrays["trained"])
