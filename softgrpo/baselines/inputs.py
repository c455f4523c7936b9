"""What gates without a language model get, and what a fitted one is. Legend: W windows, B asked windows, M recallers, F numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.ranking.judged import JudgedLists
from softgrpo.ranking.metrics import check_any_window
from softgrpo.ranking.rewards import TrainingReward


@dataclass(frozen=True)
class GateData:
    """What gates are fitted and chosen on. There is nothing of a test window in it.

    Attributes:
        train: Policy windows, lists and targets.
        train_ndcg: (W, M) NDCG@`fusion.k` of each recaller's own list on them.
        valid: Validation windows, lists and targets.
        numbers: (W, F) float32 of the training and the validation windows, each number with mean 0 and standard deviation 1 over
            the training windows (0 throughout where it does not vary there).
        static: (M,) the best static mixture.
        prior: (M,) log weights that networks start from, finite.
        seed: Of all that is random.
        reward: What samples of networks earn in training.
        reward_k: Cut-off of that reward where it is an NDCG; None takes `fusion.k`.
        noise_scale: Of the soft samples of a network.
        history: (W,) items in the history of the training and the validation windows.
    """

    train: JudgedLists
    train_ndcg: NDArray[np.float32]
    valid: JudgedLists
    numbers: tuple[Tensor, Tensor]
    static: Tensor
    prior: Tensor
    seed: int
    reward: TrainingReward
    reward_k: int | None
    noise_scale: float
    history: tuple[NDArray[np.integer], NDArray[np.integer]]

    @property
    def num_recallers(self) -> int:
        """M."""
        return len(self.static)

    @cached_property
    def teaching(self) -> Tensor:
        """Training windows in which some recaller lists a target, ascending: in all others every weight earns 0."""
        return torch.nonzero((self.train.positions >= 0).any(1))[:, 0]

    def valid_ndcg(self, weights: Tensor) -> Tensor:
        """Returns the mean NDCG@`fusion.k` over validation windows of G sets of weights (W, G, M), as (G,)."""
        return self.valid.ndcg(weights.double()).mean(0)


@dataclass(frozen=True)
class Asked:
    """What gates are asked about: windows, without their answers.

    Attributes:
        numbers: (B, F) float32, on the scale of the training windows.
        history: (B,) items in the history of each; None where it is not known.
    """

    numbers: Tensor
    history: NDArray[np.integer] | None = None


class GateModel(Protocol):
    """A gate as it was best on validation windows, for standardised numbers."""

    @property
    def valid_ndcg(self) -> float:
        """Mean NDCG@`fusion.k` on validation windows."""

    @property
    def choice(self) -> str:
        """What was chosen there, in words."""

    def weights(self, asked: Asked) -> Tensor:
        """Returns the weights (B, M) float64 of windows; each row sums to 1."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes arrays and trees into a folder, and returns what else is to be kept, as JSON-able data."""

    @classmethod
    def load(cls, folder: Path, card: Mapping[str, Any]) -> Self:
        """Reads what `save` wrote, with the JSON-able data that it returned."""


def standardised(
    numbers: NDArray[np.float64], train: NDArray[np.int64], valid: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Returns the numbers (W, F) of two sets of windows, float32, standardised by those of the training windows."""
    own = numbers[train]
    mean, spread = own.mean(0), own.std(0)
    return on_scale(own, mean, spread), on_scale(numbers[valid], mean, spread)


def on_scale(numbers: NDArray[np.float64], mean: NDArray[np.float64], spread: NDArray[np.float64]) -> Tensor:
    """Returns numbers (W, F) as float32 with the mean (F,) at 0 and the standard deviation (F,) as unit; 0 where that is 0."""
    scaled = numbers - mean
    scaled /= np.maximum(spread, 1e-9)
    scaled[:, ~(spread > 1e-9)] = 0.0
    return torch.from_numpy(scaled.astype(np.float32))


def check_windows(data: GateData) -> None:
    """Checks that there is something to fit gates on and to choose them on.

    Raises:
        DataError: There are no training or no validation windows.
    """
    rule = "baselines are fitted on policy windows and chosen on validation windows"
    for name, rows in zip(("policy", "validation"), data.numbers, strict=True):
        check_any_window(name, len(rows), rule)
