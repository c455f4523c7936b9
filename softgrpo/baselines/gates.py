"""The gates without a language model, by name: how each is fitted, asked about any windows, and stored. A folder holds one gate:
a card, and beside it what JSON is not made for. Legend: W windows, B asked windows, M recallers, F numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from softgrpo.baselines.boosting import FittedTrees, fit_trees
from softgrpo.baselines.files import read_card, readable, write_card
from softgrpo.baselines.inputs import Asked, GateData, GateModel, check_windows, on_scale
from softgrpo.baselines.neighbours import FittedNeighbours, fit_neighbours
from softgrpo.baselines.networks import TrainedNetwork, fit_network
from softgrpo.baselines.stacking import FittedStacking, fit_stacking
from softgrpo.baselines.static_mixture import SEARCH_FUNCTIONS
from softgrpo.baselines.thirds import FittedThirds, fit_thirds
from softgrpo.config import Baseline
from softgrpo.errors import PolicyError
from softgrpo.policy.number_scale import NumberScale


@dataclass(frozen=True)
class GateKind:
    """One kind of gate.

    Attributes:
        label: What people read.
        fit: Fits it.
        model: What `fit` returns; it is stored and loaded by this class.
        reads_history: It reads the length of the history too, whether or not that is among the numbers.
    """

    label: str
    fit: Callable[[GateData], GateModel]
    model: type[GateModel]
    reads_history: bool = False


GATES: dict[str, GateKind] = {
    "thirds": GateKind("Static mixture per third of history length", fit_thirds, FittedThirds, reads_history=True),
    "neighbours": GateKind("Nearest neighbours", fit_neighbours, FittedNeighbours),
    "dirichlet": GateKind("Dirichlet policy, network", partial(fit_network, action="dirichlet"), TrainedNetwork),
    "stacking": GateKind("Linear stacking", fit_stacking, FittedStacking),
    "boosting": GateKind("Boosted trees", fit_trees, FittedTrees),
    "network": GateKind("SofT-GRPO, network", partial(fit_network, action="soft"), TrainedNetwork),
    "discrete": GateKind("Discrete GRPO, network", partial(fit_network, action="discrete"), TrainedNetwork),
}
"""All kinds, by name."""
ZERO_SHOT, RANKER = "zero_shot", "ranker"
assert {*GATES, *SEARCH_FUNCTIONS, ZERO_SHOT, RANKER} == set(get_args(Baseline)), (
    "a baseline that nothing makes, or one without a name"
)
PRIORS = ("network", "boosting")
"""The kinds that a policy may start at (`policy.prior` `gate`)."""
CARD = "gate.json"


@dataclass(frozen=True)
class Gate:
    """A fitted gate, which can be asked about any windows.

    Attributes:
        kind: Its name in `GATES`.
        scale: Names of the numbers that it reads, and their mean and standard deviation over its training windows.
        model: What reads them, standardised.
    """

    kind: str
    scale: NumberScale
    model: GateModel

    @classmethod
    def fit(cls, kind: str, data: GateData, scale: NumberScale) -> Gate:
        """Fits a gate.

        Args:
            kind: Which one.
            data: What it is fitted and chosen on.
            scale: Of the numbers of the training windows; `data.numbers` are on it.

        Raises:
            DataError: There is no window to fit it on, or none to choose it on.
            TrainingError: A logit or a reward is not finite.
        """
        check_windows(data)
        return cls(kind, scale, GATES[kind].fit(data))

    @classmethod
    def best(cls, data: GateData, scale: NumberScale) -> Gate:
        """Returns the best that a policy may start at, by validation windows; arguments and errors as for `fit`."""
        fitted = [cls.fit(kind, data, scale) for kind in PRIORS]
        return max(fitted, key=lambda gate: gate.valid_ndcg)

    @property
    def label(self) -> str:
        """What people call it."""
        return GATES[self.kind].label

    @property
    def valid_ndcg(self) -> float:
        """Mean NDCG@`fusion.k` on all validation windows."""
        return self.model.valid_ndcg

    @property
    def choice(self) -> str:
        """What validation windows chose, in words."""
        return self.model.choice

    def weights(
        self, values: NDArray[np.float64], history: NDArray[np.integer] | None = None
    ) -> NDArray[np.float64]:  # fmt: skip
        """Returns the weights (B, M) of any windows, each row with sum 1.

        Args:
            values: (B, F) numbers of the windows as `softgrpo.policy.numbers` gives them, in the order of `scale.names`.
            history: (B,) items in the history of each window. Only some gates read it (`GateKind.reads_history`).

        Raises:
            PolicyError: There are more or fewer numbers, one is not finite, or the gate lacks the lengths of the histories.
        """
        self._check(values, history)
        asked = Asked(on_scale(values, self.scale.mean, self.scale.spread), history)
        return self.model.weights(asked).numpy()

    def _check(self, values: NDArray[np.float64], history: NDArray[np.integer] | None) -> None:
        names = self.scale.names
        if values.ndim != 2 or values.shape[1] != len(names):
            raise PolicyError(
                f"numbers of shape {values.shape}",
                f"this gate reads {len(names)} numbers of each window: {', '.join(names)}",
                "Pass (windows, numbers) in that order",
                code="POLICY-036",
            )
        if not np.isfinite(values).all():
            window, number = np.argwhere(~np.isfinite(values))[0]
            raise PolicyError(
                f"{names[number]} = {values[window, number]} in window {window}",
                "a gate reads finite numbers",
                "Look where the number comes from; a list without items has the number 0",
                code="POLICY-041",
            )
        if GATES[self.kind].reads_history and (history is None or history.shape != values.shape[:1]):
            received = "no lengths" if history is None else f"lengths of shape {history.shape}"
            raise PolicyError(
                f"{received} of the histories of {len(values)} windows",
                f"the gate '{self.kind}' weighs by the number of items in the history",
                "Pass history with one length for each window",
                code="POLICY-042",
            )

    def save(self, folder: Path) -> None:
        """Writes the gate into a new folder."""
        folder.mkdir(mode=0o700, parents=True)
        card = {
            "kind": self.kind,
            "names": self.scale.names,
            "mean": self.scale.mean.tolist(),
            "spread": self.scale.spread.tolist(),
            "valid_ndcg": self.valid_ndcg,
            "choice": self.choice,
        }
        write_card(folder, CARD, card | self.model.save(folder))

    @classmethod
    def load(cls, folder: Path) -> Gate:
        """Reads what `save` wrote, here or in an earlier version.

        Raises:
            PolicyError: There is no gate, or its files are damaged or hold something else.
        """
        card = read_card(folder, CARD)
        with readable(folder):
            scale = NumberScale(tuple(card["names"]), np.array(card["mean"]), np.array(card["spread"]))
            return cls(card["kind"], scale, GATES[card["kind"]].model.load(folder, card))


def fit_gates(names: Iterable[str], data: GateData, scale: NumberScale) -> dict[str, Gate]:
    """Fits the gates among some baselines.

    Args:
        names: As in `evaluation.baselines`; those that are no gates are passed over.
        data: What they are fitted and chosen on.
        scale: See `Gate.fit`.

    Returns:
        Each gate by name, in the order of `GATES`.

    Raises:
        DataError: There are no training or no validation windows.
        TrainingError: A logit or a reward is not finite.
    """
    named = set(names)
    return {name: Gate.fit(name, data, scale) for name in GATES if name in named}


def load_gate(folder: Path, name: str) -> Gate:
    """Returns a gate that the stage `gates` stored.

    Args:
        folder: Of the stage `gates`.
        name: Of the gate, as in `GATES`.

    Raises:
        PolicyError: The stage stored no such gate, or its files are damaged or hold something else.
    """
    return Gate.load(folder / name)
