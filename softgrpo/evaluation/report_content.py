"""What the report of one run tells, before it is written as a page. Legend: W windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.baselines.static_mixture import StaticMixture
from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.cases import Case
from softgrpo.evaluation.chosen import Chosen
from softgrpo.evaluation.coverage import Coverage
from softgrpo.evaluation.drivers import Drivers
from softgrpo.evaluation.lift import Lift
from softgrpo.evaluation.table import Comparison
from softgrpo.policy.shift import InputShift


@dataclass(frozen=True)
class Choice:
    """What validation windows chose for a gate.

    Attributes:
        label: Of the row.
        choice: In words.
        valid_ndcg: NDCG@`fusion.k` there.
    """

    label: str
    choice: str
    valid_ndcg: float


@dataclass(frozen=True)
class MergeRow:
    """One merge that was tried, with its best static weights.

    Attributes:
        name: What people call it.
        mixture: Where its weights come from: a recaller's name, `uniform` or a search.
        weights: M weights, sum 1, as they were found, without the floor of the policies' prior.
        valid_ndcg: NDCG@`fusion.k` on validation windows, which decided.
        test_ndcg: Mean over users of NDCG@`fusion.k` on test windows, which decided nothing.
        chosen: Whether the run uses it.
    """

    name: str
    mixture: str
    weights: tuple[float, ...]
    valid_ndcg: float
    test_ndcg: float
    chosen: bool


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        config: Of the run.
        comparison: The result.
        merge: Name of the run's merge.
        merges: All merges that were tried; empty where an earlier version stored the report.
        static: The search for the best static mixture.
        gates: The rows learned without the language model, as `Choice`s.
        facts: More on data and run, label to value, shown in order (see `softgrpo.evaluation.cases.data_facts`).
        head: What the page begins with, label to value, such as the language model.
        focus: Key of the method whose weights, cases and gains are shown, e.g. `grpo_multi`.
        learnt: What training changed, see `softgrpo.evaluation.learnt`; "" where an earlier version stored the report.
        history: (W,) items in the history of each test window.
        curves: Training curves of SofT-GRPO, title to a frame with `step` and `value`; may be empty.
        sft_curves: Those of SFT.
        recaller_curves: Of each recaller that was trained here, name of the curve to such a frame.
        confusion: Of the SFT policy on validation windows, from `softgrpo.evaluation.confusion.confusion_table`.
        cases: Of the focus against the best single recaller.
        coverage: What each recaller finds; None where an earlier version stored the report.
        lift: NDCG at every cut-off, see `softgrpo.evaluation.lift`; likewise.
        drivers: What the weights of the focus go with; None where they do not differ between users.
        beyond: Coverage, novelty and exposure of every row, see `softgrpo.evaluation.beyond.beyond_accuracy`; None where an earlier
            version stored the report.
        popularity: (W,) mean training interactions of the targets of each test window; likewise.
        shifts: The inputs with the largest shift between policy, validation and test windows; empty likewise.
        chosen: Which method validation windows choose; None likewise.
    """

    config: ExperimentConfig
    comparison: Comparison
    merge: str
    merges: tuple[MergeRow, ...]
    static: StaticMixture
    gates: tuple[Choice, ...]
    facts: Mapping[str, str]
    head: Mapping[str, str]
    focus: str
    learnt: str
    history: NDArray[np.integer]
    curves: Mapping[str, pd.DataFrame]
    sft_curves: Mapping[str, pd.DataFrame]
    recaller_curves: Mapping[str, Mapping[str, pd.DataFrame]]
    confusion: pd.DataFrame
    cases: tuple[Case, ...]
    coverage: Coverage | None
    lift: Lift | None
    drivers: Drivers | None
    beyond: pd.DataFrame | None
    popularity: NDArray[np.floating] | None
    shifts: tuple[InputShift, ...]
    chosen: Chosen | None = None
