"""Gates as stored artifacts that can be asked about new windows: networks as safetensors, trees by skops, the rest as JSON.

Nothing that is loaded runs code of its own: of skops, the one type of scikit-learn that trees need is trusted by name.
Legend: B windows, F numbers, M recallers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from skops.io import dump, load

from softgrpo.baselines.boosting import BestTrees, FittedTrees, NDCGTrees, Trees, fit_trees
from softgrpo.baselines.inputs import GateData, check_windows, on_scale
from softgrpo.baselines.networks import Network, TrainedNetwork, train_network
from softgrpo.errors import PolicyError
from softgrpo.policy.number_scale import NumberScale

GateKind = Literal["network", "boosting"]
"""Gates that can be stored; names as in `softgrpo.baselines.gates`."""
CARD, NETWORK, TREES = "gate.json", "network.safetensors", "trees.skops"
TRUSTED = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]


@dataclass(frozen=True)
class Gate:
    """A fitted gate.

    Attributes:
        scale: Names of the numbers that it reads, and their mean and standard deviation over its training windows.
        model: What reads them, standardised.
    """

    scale: NumberScale
    model: TrainedNetwork | FittedTrees

    @classmethod
    def fit(cls, kind: GateKind, data: GateData, scale: NumberScale) -> Gate:
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
        return cls(scale, train_network(data, "soft") if kind == "network" else fit_trees(data))

    @classmethod
    def best(cls, data: GateData, scale: NumberScale) -> Gate:
        """Returns the best of all kinds by validation windows; arguments and errors as for `fit`."""
        fitted = [cls.fit(kind, data, scale) for kind in get_args(GateKind)]
        return max(fitted, key=lambda gate: gate.valid_ndcg)

    @property
    def kind(self) -> GateKind:
        """Which one it is."""
        return "network" if isinstance(self.model, TrainedNetwork) else "boosting"

    @property
    def valid_ndcg(self) -> float:
        """Mean NDCG@`fusion.k` on validation windows."""
        return self.model.valid_ndcg

    def weights(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the weights (B, M) for numbers (B, F) of any windows, in the order of `scale.names`.

        Raises:
            PolicyError: There are more or fewer numbers.
        """
        if numbers.ndim != 2 or numbers.shape[1] != len(self.scale.names):
            raise PolicyError(
                f"numbers of shape {numbers.shape}",
                f"this gate reads {len(self.scale.names)} numbers of each window: {', '.join(self.scale.names)}",
                "Pass (windows, numbers) in that order",
                code="POLICY-036",
            )
        weights: NDArray[np.float64] = self.model.weights(on_scale(numbers, self.scale.mean, self.scale.spread)).numpy()
        return weights

    def save(self, folder: Path) -> None:
        """Writes the gate into a new folder."""
        folder.mkdir(mode=0o700, parents=True)
        model = self.model
        card: dict[str, Any] = {
            "kind": self.kind,
            "names": self.scale.names,
            "mean": self.scale.mean.tolist(),
            "spread": self.scale.spread.tolist(),
            "valid_ndcg": model.valid_ndcg,
            "choice": model.choice,
        }
        if isinstance(model, TrainedNetwork):
            save_file(model.network.state_dict(), folder / NETWORK)
            card |= {"action": model.action, "reading": model.reading}
        else:
            trees = model.trees
            dump(trees.trees if isinstance(trees, BestTrees) else list(trees.trees), folder / TREES)
            own = {"classes": trees.classes, "recallers": trees.recallers} if isinstance(trees, BestTrees) else {}
            card |= {"prior": model.prior.tolist(), "sharpness": model.sharpness, **own}
        (folder / CARD).write_text(json.dumps(card, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Gate:
        """Reads what `save` wrote.

        Raises:
            PolicyError: There is no gate.
        """
        if not (folder / CARD).is_file():
            raise PolicyError(
                f"'{folder}' holds no {CARD}",
                "a stored gate has one",
                "Name a folder that Gate.save wrote",
                code="POLICY-037",
            )
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        scale = NumberScale(tuple(card["names"]), np.array(card["mean"]), np.array(card["spread"]))
        return cls(scale, _network(folder, card) if card["kind"] == "network" else _trees(folder, card))


def _network(folder: Path, card: Mapping[str, Any]) -> TrainedNetwork:
    state = load_file(folder / NETWORK)
    network = Network(len(card["names"]), state["start"])
    network.load_state_dict(state)
    return TrainedNetwork(network, card["action"], card["reading"], card["valid_ndcg"], card["choice"])


def _trees(folder: Path, card: Mapping[str, Any]) -> FittedTrees:
    stored = load(folder / TREES, trusted=TRUSTED)
    if "classes" in card:
        trees: Trees = BestTrees(stored, tuple(card["classes"]), card["recallers"])
    else:
        trees = NDCGTrees(tuple(stored))
    return FittedTrees(trees, torch.tensor(card["prior"]), card["sharpness"], card["valid_ndcg"], card["choice"])
