"""What gates without a language model get: numbers and lists of windows. Legend: W windows, M recallers, F numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.ranking.metrics import check_any_window
from softgrpo.ranking.rewards import JudgedLists, TrainingReward


@dataclass(frozen=True)
class GateData:
    """What gates are fitted and chosen on, and what they are asked. There is no answer of an asked window in it.

    Attributes:
        train: Policy windows, lists and targets.
        train_ndcg: (W, M) NDCG@`fusion.k` of each recaller's own list on them.
        valid: Validation windows, lists and targets.
        numbers: (W, F) float32 of the training, the validation and the asked windows, each number with mean 0 and standard
            deviation 1 over the training windows (0 throughout where it does not vary there).
        static: (M,) the best static mixture.
        prior: (M,) log weights that networks start from, finite.
        seed: Of all that is random.
        reward: What samples of networks earn in training.
        reward_k: Cut-off of that reward where it is an NDCG; None takes `fusion.k`.
        noise_scale: Of the soft samples of a network.
        history: (W,) items in the history of the training, the validation and the asked windows.
    """

    train: JudgedLists
    train_ndcg: NDArray[np.float32]
    valid: JudgedLists
    numbers: tuple[Tensor, Tensor, Tensor]
    static: Tensor
    prior: Tensor
    seed: int
    reward: TrainingReward
    reward_k: int | None
    noise_scale: float
    history: tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]

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
class GateWeights:
    """What a gate says.

    Attributes:
        weights: (W, M) float64 on the asked windows.
        valid_ndcg: Mean NDCG@`fusion.k` on validation windows, which it was chosen by.
        choice: What was chosen there, in words.
    """

    weights: Tensor
    valid_ndcg: float
    choice: str

    @classmethod
    def worst(cls) -> GateWeights:
        """Returns what every gate is better than."""
        return cls(torch.empty(0), -1.0, "")


def standardised(
    numbers: NDArray[np.float64], train: NDArray[np.int64], valid: NDArray[np.int64], asked: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the numbers (W, F) of three sets of windows, float32, standardised by those of the training windows."""
    scaled = on_scale(numbers, numbers[train].mean(0), numbers[train].std(0))
    return scaled[train], scaled[valid], scaled[asked]


def on_scale(numbers: NDArray[np.float64], mean: NDArray[np.float64], spread: NDArray[np.float64]) -> Tensor:
    """Returns numbers (W, F) as float32 with the mean (F,) at 0 and the standard deviation (F,) as unit; 0 where that is 0."""
    return torch.from_numpy(
        np.where(spread > 1e-9, (numbers - mean) / np.maximum(spread, 1e-9), 0.0).astype(np.float32)
    )


def check_windows(data: GateData) -> None:
    """Checks that there is something to fit gates on and to choose them on.

    Raises:
        DataError: There are no training, no validation or no test windows.
    """
    rule = "baselines are fitted on policy windows, chosen on validation windows and asked about test windows"
    for name, rows in zip(("policy", "validation", "test"), data.numbers, strict=True):
        check_any_window(name, len(rows), rule)
