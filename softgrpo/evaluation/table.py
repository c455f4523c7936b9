"""The comparison table: every method on the same test windows. Legend: W windows, M recallers, U users."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns
from softgrpo.config import EvaluationConfig, ExperimentConfig
from softgrpo.evaluation.rows import Method
from softgrpo.evaluation.significance import Bootstrap, holm, is_bound, paired_bootstrap, per_user, smallest_p
from softgrpo.ranking.metrics import check_any_window
from softgrpo.ranking.sharded import Judged, shards_of


@dataclass(frozen=True)
class Comparison:
    """All methods on the test windows.

    Attributes:
        table: One row per method, in the order given. Columns: `method`, `label`, `kind`; `ndcg@k`, `recall@k`, `hit@k` for
            each cut-off and `mrr`, means over users; then for `vs_single` (best single recaller, chosen on validation) and
            `vs_static` (best static mixture): `vs_x` (difference in NDCG@`fusion.k`), `vs_x_relative` (that over the reference's
            NDCG), `vs_x_low` and `vs_x_high` (paired bootstrap interval of the difference), `vs_x_p` (p-value, Holm-corrected
            over the whole table). NaN where a row is compared with itself; p is NaN for oracles too. `vs_x_p_bound` tells where p
            is as small as the draws allow. Tables of earlier versions lack it.
        windows: One row per method and window. Columns: `method`, `window`, `user`, then the metrics.
        methods: What was compared.
        best_single: Key of the reference of `vs_single`.
        best_static: Key of the reference of `vs_static`.
    """

    table: pd.DataFrame
    windows: pd.DataFrame
    methods: tuple[Method, ...]
    best_single: str
    best_static: str

    def method(self, key: str) -> Method:
        """Returns the method of a key."""
        return next(method for method in self.methods if method.key == key)


def compare(
    judged: Judged,
    users: NDArray[np.integer],
    windows: NDArray[np.integer],
    methods: Sequence[Method],
    best_single: str,
    config: ExperimentConfig,
    best_static: str = "static",
) -> Comparison:
    """Evaluates all methods on the same windows.

    Args:
        judged: The W test windows.
        users: (W,) user ids; windows of a user are averaged before anything else.
        windows: (W,) window numbers, for `Comparison.windows`.
        methods: The rows.
        best_single: Key of the best single recaller, chosen on validation.
        config: Cut-offs, bootstrap and seed.
        best_static: Key of the best static mixture.

    Raises:
        DataError: There is no test window.
    """
    check_any_window("test", len(judged), "a comparison needs users with at least one item in the test part")
    ks = config.evaluation.cutoffs(config.fusion.k)
    by_method = window_metrics(judged, methods, ks)
    frames = [
        pd.DataFrame({"method": key, Columns.Window: windows, Columns.User: users} | values)
        for key, values in by_method.items()
    ]
    rows = pd.DataFrame(
        {
            "method": [method.key for method in methods],
            "label": [method.label for method in methods],
            "kind": [method.kind for method in methods],
        }
    )
    everything = pd.concat(frames, ignore_index=True)
    references = {"vs_single": best_single, "vs_static": best_static}
    table = tabulate(rows, everything, references, f"ndcg@{config.fusion.k}", config.evaluation, config.seed)
    return Comparison(table, everything, tuple(methods), best_single, best_static)


def window_metrics(
    judged: Judged, methods: Sequence[Method], ks: tuple[int, ...]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Returns every metric of every method by its key, (W,) each; an oracle is a bound of each metric by itself.

    Args:
        judged: The W test windows.
        methods: The rows.
        ks: Cut-offs.
    """
    by_method: dict[str, dict[str, NDArray[np.float64]]] = {method.key: {} for method in methods}
    for lists, own in by_lists(judged, methods):
        for part, shard in shards_of(lists):
            for method in own:
                if method.choices is None:
                    values = shard.metrics(method.weights[part], ks)
                else:
                    values = shard.best_metrics(method.choices, ks)
                for name, value in values.items():
                    by_method[method.key].setdefault(name, np.empty(len(lists)))[part] = value.numpy()
    weighing = [method.key for method in methods if method.weighs and method.keeps_bounds]
    for bound in (by_method[method.key] for method in methods if method.bounds_rows):
        for name in bound:
            bound[name] = np.max([by_method[key][name] for key in weighing], axis=0)
    return by_method


def by_lists(judged: Judged, methods: Sequence[Method]) -> list[tuple[Judged, list[Method]]]:
    """Returns rows by the lists that they merge, so that each shard is aligned once for all of them."""
    groups: dict[int, tuple[Judged, list[Method]]] = {}
    for method in methods:
        lists = judged if method.merged_as is None else method.merged_as
        groups.setdefault(id(lists), (lists, []))[1].append(method)
    return list(groups.values())


def tabulate(
    rows: pd.DataFrame,
    windows: pd.DataFrame,
    references: Mapping[str, str],
    primary: str,
    settings: EvaluationConfig,
    seed: int,
    tested: Collection[str] | None = None,
) -> pd.DataFrame:
    """Returns means over users, and differences to references with intervals and p-values.

    Args:
        rows: `method`, `label` and `kind` of each row.
        windows: As in `Comparison.windows`; every method on the same windows in the same order.
        references: Prefix of the columns of differences -> key of the method that others are compared with.
        primary: The metric compared.
        settings: Of the bootstrap.
        seed: Of the bootstrap.
        tested: Keys of the rows that get a p-value, over which Holm corrects; None takes all but oracles.

    Returns:
        `rows` with the columns that `Comparison.table` describes.
    """
    metrics = [name for name in windows.columns if name not in ("method", Columns.Window, Columns.User)]
    keys = list(rows["method"])
    frames = dict(tuple(windows.groupby("method", sort=False)))
    by_user = [per_user(frames[key][metrics].to_numpy(), frames[key][Columns.User].to_numpy()) for key in keys]
    table = rows.copy()
    table[metrics] = np.stack([values.mean(0) for values in by_user])
    scores = np.stack([values[:, metrics.index(primary)] for values in by_user], axis=1)  # (U, rows)
    numbers = {name: keys.index(reference) for name, reference in references.items()}
    untested = table["kind"] == "oracle" if tested is None else ~table["method"].isin(list(tested))
    return pd.concat([table, _differences(scores, numbers, untested, settings, seed)], axis=1)


def _differences(
    scores: NDArray[np.float64],
    references: Mapping[str, int],
    untested: pd.Series[bool],
    settings: EvaluationConfig,
    seed: int,
) -> pd.DataFrame:
    """The columns `vs_...` from the scores (U, rows) and the row number of each reference."""
    places = list(references.values())
    differences = scores[:, None, :] - scores[:, places, None]  # (U, references, rows)
    result: Bootstrap = paired_bootstrap(differences, settings.bootstrap, settings.confidence, seed)
    by_reference = [np.split(values, len(places)) for values in (result.mean, result.low, result.high, result.p)]
    columns: dict[str, NDArray[np.float64]] = {}
    for (name, place), mean, low, high, p in zip(references.items(), *by_reference, strict=True):
        base = scores[:, place].mean()
        relative = mean / base if base > 0 else np.full_like(mean, np.nan)
        itself = np.arange(scores.shape[1]) == place
        pieces = {"": mean, "_relative": relative, "_low": low, "_high": high}
        columns |= {f"{name}{piece}": np.where(itself, np.nan, values) for piece, values in pieces.items()}
        columns[f"{name}_p"] = np.where(itself | untested.to_numpy(), np.nan, p)
    corrected = holm(np.concatenate([columns[f"{name}_p"] for name in references]))
    for name, values in zip(references, np.split(corrected, len(references)), strict=True):
        columns[f"{name}_p"] = values
    least = smallest_p(int((~np.isnan(corrected)).sum()), settings.bootstrap)
    bounds = {f"{name}_p_bound": is_bound(columns[f"{name}_p"], least) for name in references}
    return pd.DataFrame({**columns, **bounds})
