"""The gates and the item ranker of a run: fitted and stored by the stage `gates`, asked by it and by the stage `test`.

Legend: W windows, I items, d dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.baselines.gates import GATES, RANKER, Gate, fit_gates, load_gate
from softgrpo.baselines.item_ranker import LABEL, ItemRanker, load_ranker
from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.report_content import Choice
from softgrpo.evaluation.rows import Gate as GateRow
from softgrpo.evaluation.rows import Method, fitted_methods, ranker_method
from softgrpo.policy.prior import starting_weights
from softgrpo.ranking.sharded import Judged
from softgrpo.stages.inputs import Prepared
from softgrpo.stages.ranker import fit_ranker, rank_rows
from softgrpo.stages.teacher import gate_data

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedBaselines:
    """What was fitted without a language model, by what `evaluation.baselines` names.

    Attributes:
        gates: By name.
        ranker: None where it is not named.
    """

    gates: Mapping[str, Gate]
    ranker: ItemRanker | None

    @classmethod
    def fit(cls, prepared: Prepared, embeddings: NDArray[np.float32] | None = None) -> FittedBaselines:
        """Fits all that the settings name.

        Args:
            prepared: Output of the earlier stages.
            embeddings: (I, d) of the items' texts; None without content.

        Raises:
            DataError: There is no window to fit on, or none to choose on.
            TrainingError: A logit or a reward is not finite.
        """
        names = prepared.config.evaluation.baselines
        gates: dict[str, Gate] = {}
        if any(name in GATES for name in names):
            gates = fit_gates(names, *gate_data(prepared, prepared.rewarded_rows()))
        fitted = cls(gates, fit_ranker(prepared, embeddings) if RANKER in names else None)
        for choice in fitted.choices:
            logger.info("%s: %s, NDCG %.4f on validation windows", choice.label, choice.choice, choice.valid_ndcg)
        return fitted

    def save(self, folder: Path) -> None:
        """Writes each into a folder of its name, see `softgrpo.baselines.gates.load_gate`."""
        for name, gate in self.gates.items():
            gate.save(folder / name)
        if self.ranker is not None:
            self.ranker.save(folder / RANKER)

    @classmethod
    def load(cls, config: ExperimentConfig, folder: Path) -> FittedBaselines:
        """Reads what `save` wrote in a run with these settings.

        Raises:
            PolicyError: One is missing, or its files are damaged or hold something else.
        """
        names: Collection[str] = config.evaluation.baselines
        gates = {name: load_gate(folder, name) for name in GATES if name in names}
        return cls(gates, load_ranker(folder) if RANKER in names else None)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What validation windows chose for each."""
        fitted = [Choice(gate.label, gate.choice, gate.valid_ndcg) for gate in self.gates.values()]
        if self.ranker is not None:
            fitted.append(Choice(LABEL, self.ranker.choice, self.ranker.valid_ndcg))
        return tuple(fitted)

    def rows(self, prepared: Prepared, rows: NDArray[np.int64]) -> dict[str, GateRow]:
        """Returns what the gates say of some windows, (W,) numbers, as rows of a table."""
        values, history = prepared.numbers.values[rows], prepared.windows.start[rows]
        return {
            name: GateRow(gate.label, torch.from_numpy(gate.weights(values, history)), gate.valid_ndcg, gate.choice)
            for name, gate in self.gates.items()
        }

    def rankers(
        self,
        prepared: Prepared,
        rows: NDArray[np.int64],
        judged: Judged,
        embeddings: NDArray[np.float32] | None = None,
    ) -> list[Method]:
        """Returns the rows that order items, none or one.

        Args:
            prepared: Output of the earlier stages.
            rows: (W,) numbers of windows.
            judged: The same windows.
            embeddings: As the ranker was fitted with.
        """
        if self.ranker is None:
            return []
        return [ranker_method(RANKER, LABEL, rank_rows(prepared, self.ranker, rows, embeddings).items, judged)]

    def methods(
        self, prepared: Prepared, rows: NDArray[np.int64], embeddings: NDArray[np.float32] | None = None
    ) -> list[Method]:
        """Returns all rows for some windows that need no language model, under the run's merge; arguments as of `rankers`."""
        judged = prepared.sharded(rows)
        start = starting_weights(np.asarray(prepared.static.best.weights), prepared.config.policy)
        rankers = self.rankers(prepared, rows, judged, embeddings)
        gates = self.rows(prepared, rows)
        return fitted_methods(judged, prepared.recallers, prepared.static, start, gates, rankers=rankers)
