"""The recallers' own user vectors as few numbers: principal components, fitted on policy windows.

Legend: W windows, d components of a recaller's vector, n numbers of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from softgrpo.common.artifacts import USER_VECTORS
from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.errors import LeakageError
from softgrpo.stages.leakage import DEFECT, TOLERANCE

if TYPE_CHECKING:  # recbole only where it is used
    from softgrpo.recallers.recbole_model import RecBoleRecaller

_MEAN, _COMPONENTS = "mean:", "components:"


@dataclass(frozen=True)
class Projection:
    """Principal components of a recaller's vectors.

    Attributes:
        mean: (d,) float64, over policy windows.
        components: (n, d) float64, orthogonal rows of length 1, by falling variance.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the n numbers of vectors (W, d), as (W, n); 0 in the row of a vector that is NaN."""
        numbers = (vectors.astype(np.float64) - self.mean) @ self.components.T
        return np.nan_to_num(numbers, nan=0.0).astype(np.float32)


def fit_projection(vectors: NDArray[np.float32], size: int) -> Projection | None:
    """Returns the principal components of the vectors of policy windows; None where fewer than two are known.

    Args:
        vectors: (W, d), NaN in the row of a window about whose user the recaller knows nothing.
        size: How many components, at most.
    """
    from sklearn.decomposition import PCA

    known = vectors[~np.isnan(vectors).any(1)].astype(np.float64)
    if len(known) < 2:
        return None
    fitted = PCA(min(size, *known.shape), svd_solver="full").fit(known)
    return Projection(fitted.mean_, fitted.components_)


@dataclass(frozen=True)
class VectorReader:
    """Gives the numbers of any windows; see `softgrpo.policy.blocks.block.UserVectors`.

    Attributes:
        recallers: Those with a vector, by name.
        projections: One of each, by name.
        batch_size: Windows that are read at a time.
    """

    recallers: Mapping[str, RecBoleRecaller]
    projections: Mapping[str, Projection]
    batch_size: int

    def __call__(self, corpus: Corpus, windows: Windows) -> dict[str, NDArray[np.float32]]:
        """Returns the numbers (W, n) of each recaller. Each window's follow from its user and its history alone."""
        return self.read(*_asked(corpus, windows))

    def read(
        self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]
    ) -> dict[str, NDArray[np.float32]]:  # fmt: skip
        """Returns the numbers (B, n) of each recaller.

        Args:
            users: (B,) user ids of the corpus, -1 for a user that is not in it.
            histories: B arrays of item ids, oldest first.
        """
        return {
            name: projection(_vectors(self.recallers[name], users, histories, self.batch_size))
            for name, projection in self.projections.items()
        }

    @property
    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """The projections as named arrays, which `read_vectors` reads."""
        tensors: dict[str, NDArray[np.float64]] = {}
        for name, projection in self.projections.items():
            tensors |= {_MEAN + name: projection.mean, _COMPONENTS + name: np.ascontiguousarray(projection.components)}
        return tensors

    def save(self, folder: Path) -> None:
        """Writes the projections into the folder of the stage `data`."""
        save_file(self.tensors, folder / USER_VECTORS)


def fit_vectors(
    config: ExperimentConfig, recallers: Mapping[str, RecBoleRecaller], corpus: Corpus, windows: Windows
) -> VectorReader | None:
    """Fits projections of the vectors of some recallers on policy windows.

    Args:
        config: The resolved configuration.
        recallers: Those with user vectors, by name.
        corpus: All interactions.
        windows: All windows of the split.

    Returns:
        None where no recaller has vectors.
    """
    learnt, batch_size = _part(windows, Part.POLICY), config.recall.batch_size
    fitted = {
        name: fit_projection(_vectors(recaller, *_asked(corpus, learnt), batch_size), config.features.user_vector_size)
        for name, recaller in recallers.items()
    }
    projections = {name: projection for name, projection in fitted.items() if projection is not None}
    return VectorReader(recallers, projections, batch_size) if projections else None


def read_vectors(
    tensors: Mapping[str, NDArray[np.float64]], config: ExperimentConfig, recallers: Mapping[str, RecBoleRecaller]
) -> VectorReader:
    """Returns what reads vectors with projections that were fitted before.

    Args:
        tensors: See `VectorReader.tensors`.
        config: The resolved configuration.
        recallers: Those with user vectors, by name.
    """
    names = [name for name in config.recall.recallers if _MEAN + name in tensors]
    projections = {name: Projection(tensors[_MEAN + name], tensors[_COMPONENTS + name]) for name in names}
    return VectorReader(recallers, projections, config.recall.batch_size)


def load_vectors(
    config: ExperimentConfig, inputs: Mapping[str, Path], corpus: Corpus, folder: Path
) -> VectorReader | None:
    """Opens the recallers whose projections the stage `data` stored; None where it stored none.

    Args:
        config: The resolved configuration.
        inputs: Folders of the stages `recall-<recaller>`, among others.
        corpus: All interactions.
        folder: Of the stage `data`.
    """
    tensors = load_projections(folder)
    return read_vectors(tensors, config, open_recallers(config, inputs, corpus)) if tensors else None


def load_projections(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Returns the projections that the stage `data` stored in a folder, as `VectorReader.tensors`; none where it stored none."""
    path = folder / USER_VECTORS
    return load_file(path) if path.is_file() else {}


def check_projections(reader: VectorReader, corpus: Corpus, windows: Windows) -> None:
    """Checks that what vectors are centred by follows from policy windows alone.

    Raises:
        LeakageError: It is another mean than that over the policy windows.
    """
    learnt = _part(windows, Part.POLICY)
    for name, projection in reader.projections.items():
        vectors = _vectors(reader.recallers[name], *_asked(corpus, learnt), reader.batch_size)
        mean = np.nanmean(vectors.astype(np.float64), axis=0)
        if not np.allclose(projection.mean, mean, rtol=TOLERANCE, atol=TOLERANCE):
            raise LeakageError(
                f"The mean of the user vectors of {name} is not that of the policy windows",
                "Their principal components are fitted on policy windows alone",
                DEFECT,
                code="LEAKAGE-015",
            )


def open_recallers(config: ExperimentConfig, inputs: Mapping[str, Path], corpus: Corpus) -> dict[str, RecBoleRecaller]:
    """Opens the recallers of the pool that have user vectors.

    Args:
        config: The resolved configuration.
        inputs: Folders of the stages `recall-<recaller>`, among others.
        corpus: All interactions.

    Returns:
        Them, by name.
    """
    from softgrpo.recallers.recbole_adapter import load_recaller
    from softgrpo.recallers.recbole_model import RecBoleRecaller
    from softgrpo.recallers.recbole_vectors import has_user_vector

    names = [name for name in config.recall.recallers if name not in config.recall.files and has_user_vector(name)]
    opened = {name: load_recaller(inputs[f"recall-{name}"] / "model", corpus) for name in names}
    return {name: recaller for name, recaller in opened.items() if isinstance(recaller, RecBoleRecaller)}


def _asked(corpus: Corpus, windows: Windows) -> tuple[NDArray[np.int64], list[NDArray[np.int32]]]:
    """Returns users and histories of all windows."""
    users = windows.user.astype(np.int64)
    return users, [corpus.sequence(user)[:start] for user, start in zip(users, windows.start, strict=True)]


def _vectors(
    recaller: RecBoleRecaller, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]], batch_size: int
) -> NDArray[np.float32]:
    """Returns a recaller's vectors of some users, (B, d); NaN in the row of one about whom it knows nothing."""
    from softgrpo.recallers.recbole_vectors import user_vectors

    parts = [slice(first, first + batch_size) for first in range(0, max(len(users), 1), batch_size)]
    return np.concatenate([user_vectors(recaller, users[part], histories[part]) for part in parts])


def _part(windows: Windows, part: Part) -> Windows:
    """Returns the windows of one part."""
    rows = windows.of(part)
    return replace(
        windows, user=windows.user[rows], part=windows.part[rows], start=windows.start[rows], end=windows.end[rows]
    )
