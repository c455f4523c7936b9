"""The recaller `ALS`: implicit's alternating least squares, as a plug-in. It reads histories, so it knows new users too.

Hu, Koren and Volinsky (2008), "Collaborative Filtering for Implicit Feedback Datasets", doi:10.1109/ICDM.2008.22. Legend: n
interactions, B windows, I items, f factors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch  # noqa: F401  # it carries libgomp.so.1, which implicit links and does not bring
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from softgrpo.recallers.plugins import Interactions

_FACTORS, _SETTINGS = "factors.safetensors", "settings.json"


@dataclass(frozen=True)
class ImplicitALS:
    """Item factors; a user's factors are solved for from the history each time.

    Attributes:
        factors: (I, f) float32, 0 in the row of an item without training interactions.
        settings: All of `SETTINGS`.
    """

    factors: NDArray[np.float32]
    settings: Mapping[str, Any]

    SETTINGS: ClassVar[Mapping[str, Any]] = {"factors": 64, "regularization": 0.01, "alpha": 1.0, "iterations": 15}
    """Those of implicit, by its names; `alpha` is the confidence of an interaction."""

    @classmethod
    def fit(cls, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> ImplicitALS:
        """Trains the factors; see `softgrpo.recallers.plugins.Plugin`.

        Raises:
            ValueError: A setting is out of range, or training diverged.
        """
        _check(settings)
        pairs = (np.ones(len(interactions.items), dtype=np.float32), (interactions.users, interactions.items))
        matrix = sp.csr_matrix(pairs, shape=(interactions.num_users, interactions.num_items))
        matrix.data[:] = 1.0  # an item that a user took twice counts once, as it does in a history
        with threadpool_limits(1, "blas"):
            model = _solver(settings, seed)
            model.fit(matrix, show_progress=False)
        factors = np.asarray(model.item_factors, dtype=np.float32)
        factors[np.bincount(interactions.items, minlength=interactions.num_items) == 0] = 0.0
        return cls(factors, dict(settings))

    @cached_property
    def _model(self) -> AlternatingLeastSquares:
        model = _solver(self.settings, 0)
        model.item_factors = self.factors
        return model

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        return np.asarray(self.factors.any(axis=1))

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Returns scores (B, I), see `softgrpo.recallers.plugins.Plugin`; who the users are does not matter."""
        read = [np.unique(history[self._known[history]]) for history in histories]
        ends = np.cumsum([0, *map(len, read)])
        items = np.concatenate([np.empty(0, dtype=np.int32), *read])
        matrix = sp.csr_matrix(
            (np.ones(len(items), dtype=np.float32), items, ends), shape=(len(read), len(self.factors))
        )
        with threadpool_limits(1, "blas"):
            of_users = self._model.recalculate_user(np.arange(len(read)), matrix)
            scores: NDArray[np.float32] = of_users @ self.factors.T
        scores[:, ~self._known] = -np.inf
        scores[np.diff(ends) == 0] = -np.inf
        return scores

    def save(self, folder: Path) -> None:
        """Writes the factors (safetensors) and the settings (JSON)."""
        save_file({"items": self.factors}, folder / _FACTORS)
        (folder / _SETTINGS).write_text(json.dumps(dict(self.settings), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ImplicitALS:
        """Reads what `save` wrote."""
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        return cls(load_file(folder / _FACTORS)["items"], settings)


def _solver(settings: Mapping[str, Any], seed: int) -> AlternatingLeastSquares:
    """Returns implicit's model on one thread, whose sums have a fixed order."""
    return AlternatingLeastSquares(**settings, num_threads=1, random_state=seed)


def _check(settings: Mapping[str, Any]) -> None:
    for name, least in (("factors", 1), ("iterations", 1), ("regularization", 0.0), ("alpha", 0.0)):
        if settings[name] < least or (name == "alpha" and settings[name] == 0):
            raise ValueError(
                f"{name} = {settings[name]} must be {'above 0' if name == 'alpha' else f'at least {least}'}"
            )
