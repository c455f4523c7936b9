"""The rows of the comparison table: every method with its weights on the test windows. Legend: W windows, M recallers.

Oracles look at the answers. They are upper bounds: what a router could reach at NDCG@`fusion.k`, not what any does reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softgrpo.baselines.static_mixture import SEARCH_NAMES, Candidate, StaticMixture, weight_grid
from softgrpo.config import ExperimentConfig, MergeMethod
from softgrpo.ranking.bounds import within_bounds
from softgrpo.ranking.judged import JudgedLists, judge_order
from softgrpo.ranking.sharded import Judged, ShardedLists, best_of, recallers_of

Kind = Literal["single", "static", "gate", "ranker", "learned", "oracle"]
UNBOUNDED = "static_unbounded"
"""Key of the best static mixture without bounds on the shares, a row where there are some."""
LEARNED_LABELS = {"zero_shot": "Zero-shot", "sft": "SFT", "grpo": "SofT-GRPO"}


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        key: Unique short name, e.g. `BPR`, `uniform_rrf`, `global_cem`, `static`, `gate_boosting`, `sft_single`, `grpo_multi`,
            `oracle_weights`.
        label: What people read.
        kind: Gates are learned without the language model. A ranker orders items and weighs no recallers. Oracles are upper
            bounds: they get no p-value.
        weights: (W, M) weights on the test windows. Of a ranker (W, 1) ones, the weight of its own list.
        merged_as: The same windows under another merge than the run's, or with the one list per window that a ranker made; None
            takes the run's.
        choices: Of an oracle, (P, M) weights of which it takes the best for each window and metric; its `weights` are those that
            are best by NDCG@`fusion.k`.
        bounds_rows: Whether an oracle takes any other row of the table too where that is better, except rankers, which
            do not weigh recallers, and rows that do not keep the bounds.
        keeps_bounds: Whether the bounds on the recallers' shares hold for the row. Single recallers, and what shows the cost of
            bounds, are told without them.
    """

    key: str
    label: str
    kind: Kind
    weights: Tensor
    merged_as: Judged | None = None
    choices: Tensor | None = None
    bounds_rows: bool = False
    keeps_bounds: bool = True

    @property
    def weighs(self) -> bool:
        """Whether the row is a set of weights for the recallers."""
        return self.kind != "ranker"


@dataclass(frozen=True)
class Gate:
    """A learned row without the language model.

    Attributes:
        label: What people read.
        weights: (W, M) weights on the test windows.
        valid_ndcg: Mean NDCG@`fusion.k` on validation windows.
        choice: What was chosen there, in words.
    """

    label: str
    weights: Tensor
    valid_ndcg: float
    choice: str


def ranker_method(key: str, label: str, items: NDArray[np.int64], judged: Judged) -> Method:
    """Returns the row of a ranker: its own order of the items stands as the single list of each window.

    Args:
        key: See `Method`.
        label: See `Method`.
        items: (W, D) item ids, best first, -1 behind the end.
        judged: The W test windows.
    """
    targets, k = judged.targets.numpy(), judged.fusion.k
    own: Judged
    if isinstance(judged, ShardedLists):

        def build(places: NDArray[np.int64]) -> JudgedLists:
            return judge_order(items[places], targets[places], k)

        fusion = build(np.arange(0)).fusion
        own = replace(judged, build=build, fusion=fusion, num_recallers=1)
    else:
        own = judge_order(items, targets, k)
    return Method(key, label, "ranker", torch.ones(len(judged), 1, dtype=torch.float64), merged_as=own)


def argmax_one_hot(weights: Tensor) -> Tensor:
    """Returns one-hot weights (W, M) at the largest weight, the earlier recaller of equal ones."""
    return torch.nn.functional.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights)


def without_bounds(method: Method, judged: Judged) -> Method:
    """Returns a row as it is without the bounds on the shares that the run's merge has; where it has none, the row itself."""
    if judged.fusion.bounds is None:
        return method
    return replace(method, merged_as=judged.unbounded, keeps_bounds=False)


def unbounded_method(judged: Judged, best: Candidate) -> Method:
    """Returns the row of the static mixture that would be best without bounds on the shares."""
    weights = torch.ones(len(judged), 1, dtype=torch.float64) * torch.tensor(best.weights, dtype=torch.float64)
    return without_bounds(Method(UNBOUNDED, "Best static mixture without bounds", "static", weights), judged)


def uniform_methods(judged: Judged, merges: Mapping[MergeMethod, Judged]) -> list[Method]:
    """Returns the uniform mixture under the run's own merge and all others, rows `uniform_<method>`.

    Args:
        judged: The W test windows under the run's merge.
        merges: The same windows under others; an entry for the run's own is not looked at.
    """
    recallers = recallers_of(judged)
    weights = torch.full((len(judged), recallers), 1 / recallers).double()
    rows = []
    for name in get_args(MergeMethod):
        own = name == judged.fusion.method
        if own or name in merges:
            lists = None if own else merges[name]
            label = f"Uniform merge ({(lists or judged).fusion.name})"
            rows.append(Method(f"uniform_{name}", label, "static", weights, lists))
    return rows


def static_methods(judged: Judged, static: StaticMixture, start: Tensor) -> list[Method]:
    """Returns a row `global_<search>` for each search and the row `static` for the best static mixture.

    Args:
        judged: The W test windows.
        static: From `softgrpo.baselines.static_mixture.best_static_mixture`.
        start: (M,) the best static mixture as policies start from it, with the floor of their prior.
    """
    ones = torch.ones(len(judged), 1, dtype=torch.float64)
    rows = []
    for each in static.candidates:
        if each.name in SEARCH_NAMES:
            weights = ones * torch.tensor(each.weights, dtype=torch.float64)
            rows.append(Method(f"global_{each.name}", f"Global weights ({SEARCH_NAMES[each.name]})", "static", weights))
    best = static.best.name
    found = SEARCH_NAMES.get(best) or {"uniform": "the uniform one"}.get(best, f"{best} alone")
    return [*rows, Method("static", f"Best static mixture ({found})", "static", ones * start)]


def oracle_weights(judged: Judged, grid: Tensor) -> Tensor:
    """Returns the best weights of a grid for each window.

    Args:
        judged: W windows.
        grid: (P, M) weights to choose from.

    Returns:
        (W, M); the earliest of equally good points.
    """
    return grid[best_of(judged, grid)]


def oracle_recaller(judged: Judged) -> Tensor:
    """Returns the best single recaller of each window as one-hot weights (W, M); the earliest of equally good ones."""
    return oracle_weights(judged, torch.eye(recallers_of(judged), dtype=torch.float64))


def fitted_methods(
    judged: Judged,
    recallers: tuple[str, ...],
    static: StaticMixture,
    start: Tensor,
    gates: Mapping[str, Gate] | None = None,
    merges: Mapping[MergeMethod, Judged] | None = None,
    rankers: Sequence[Method] = (),
    unbounded: Candidate | None = None,
) -> list[Method]:
    """Lists the rows that need no language model and look at no answer, in the order of the table; see `standard_methods`.

    Args:
        judged: W windows.
        recallers: The M names.
        static: From `softgrpo.baselines.static_mixture.best_static_mixture`.
        start: (M,) weights of the row `static`, see `static_methods`.
        gates: Further learned rows, `gate_<name>` each.
        merges: The windows under other merges, for their uniform mixture.
        rankers: Rows that order items, see `ranker_method`.
        unbounded: The best static mixture without bounds on the shares, where there are some.
    """
    ones = torch.ones(len(judged), 1, dtype=torch.float64)
    best = static.best_single.name
    rows = [
        without_bounds(Method(name, f"{name} (best single)" if name == best else name, "single", ones * corner), judged)
        for name, corner in zip(recallers, torch.eye(len(recallers), dtype=torch.float64), strict=True)
    ]
    rows += [*uniform_methods(judged, merges or {}), *static_methods(judged, static, start)]
    if unbounded is not None:
        rows.append(unbounded_method(judged, unbounded))
    rows += [Method(f"gate_{name}", gate.label, "gate", gate.weights) for name, gate in (gates or {}).items()]
    return [*rows, *rankers]


def learned_labels(key: str) -> dict[str, str]:
    """Returns the keys of the two rows of a language model, and what people read; keys as in `LEARNED_LABELS`."""
    return {f"{key}_{reading}": f"{LEARNED_LABELS[key]} {reading}" for reading in ("single", "multi")}


def standard_methods(
    judged: Judged,
    recallers: tuple[str, ...],
    static: StaticMixture,
    start: Tensor,
    learned: Mapping[str, Tensor],
    config: ExperimentConfig,
    gates: Mapping[str, Gate] | None = None,
    merges: Mapping[MergeMethod, Judged] | None = None,
    rankers: Sequence[Method] = (),
    unbounded: Candidate | None = None,
) -> tuple[Method, ...]:
    """Lists the rows of the published table, in order.

    Args:
        judged: The W test windows; only the oracles look at their targets.
        recallers: The M names.
        static: From `softgrpo.baselines.static_mixture.best_static_mixture`.
        start: (M,) weights of the row `static`, see `static_methods`.
        learned: Weights (W, M) per language model, keys among `LEARNED_LABELS`; each gives a row `<key>_single` (all weight
            to its best recaller) and a row `<key>_multi`.
        config: For the grid of the oracle.
        gates: Further learned rows, `gate_<name>` each.
        merges: The windows under other merges, for their uniform mixture.
        rankers: Rows that order items, see `ranker_method`.
        unbounded: The best static mixture without bounds on the shares, where there are some.
    """
    rows = fitted_methods(judged, recallers, static, start, gates, merges, rankers, unbounded)
    for key in LEARNED_LABELS:
        if key in learned:
            readings = (argmax_one_hot(learned[key]), learned[key])
            named = zip(learned_labels(key).items(), readings, strict=True)
            rows += [Method(name, label, "learned", weights) for (name, label), weights in named]
    grid = weight_grid(len(recallers), config.evaluation.grid_steps, config.seed)
    alone = torch.eye(len(recallers), dtype=torch.float64)
    best_alone, best_weights = oracle_recaller(judged), oracle_weights(judged, grid)
    rows.append(Method("oracle_recaller", "Oracle recaller", "oracle", best_alone, choices=alone))
    rows.append(Method("oracle_weights", "Oracle weights", "oracle", best_weights, choices=grid, bounds_rows=True))
    return tuple(
        replace(row, weights=within_bounds(row.weights, judged.fusion)) if row.weighs and row.keeps_bounds else row
        for row in rows
    )
