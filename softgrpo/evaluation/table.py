"""The comparison table: every method on the same test windows. Legend: W windows, M recallers, U users."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.scratch import scratch
from softgrpo.config import EvaluationConfig, ExperimentConfig
from softgrpo.evaluation.rows import Method
from softgrpo.evaluation.significance import Bootstrap, holm, is_bound, paired_bootstrap, per_user, smallest_p
from softgrpo.evaluation.window_metrics import WindowMetrics
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
        measured: Every metric of every method in every window.
        methods: What was compared.
        best_single: Key of the reference of `vs_single`.
        best_static: Key of the reference of `vs_static`.
    """

    table: pd.DataFrame
    measured: WindowMetrics
    methods: tuple[Method, ...]
    best_single: str
    best_static: str

    @property
    def windows(self) -> pd.DataFrame:
        """One row per method and window. Columns: `method`, `window`, `user`, then the metrics."""
        return self.measured.frame()

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
    names, values = window_metrics(judged, methods, ks)
    measured = WindowMetrics(names, windows, users, values)
    rows = pd.DataFrame(
        {
            "method": [method.key for method in methods],
            "label": [method.label for method in methods],
            "kind": [method.kind for method in methods],
        }
    )
    references = {"vs_single": best_single, "vs_static": best_static}
    table = tabulate(rows, measured, references, f"ndcg@{config.fusion.k}", config.evaluation, config.seed)
    return Comparison(table, measured, tuple(methods), best_single, best_static)


def window_metrics(
    judged: Judged, methods: Sequence[Method], ks: tuple[int, ...]
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]:
    """Returns the names of K metrics, and those of every method by its key, (W, K) each; an oracle is a bound of each by itself.

    Args:
        judged: The W test windows.
        methods: The rows.
        ks: Cut-offs.
    """
    names: tuple[str, ...] = ()
    by_method: dict[str, NDArray[np.float64]] = {}
    for lists, own in by_lists(judged, methods):
        for part, shard in shards_of(lists):
            for method in own:
                if method.choices is None:
                    values = shard.metrics(method.weights[part], ks)
                else:
                    values = shard.best_metrics(method.choices, ks)
                if not names:
                    names = tuple(values)
                    room = scratch((len(methods), len(judged), len(names)))
                    by_method = {each.key: of_method for each, of_method in zip(methods, room, strict=True)}
                for place, name in enumerate(names):
                    by_method[method.key][part, place] = values[name].numpy()
    weighing = [method.key for method in methods if method.weighs and method.keeps_bounds]
    for bound in (by_method[method.key] for method in methods if method.bounds_rows):
        for place in range(len(names)):
            bound[:, place] = np.max([by_method[key][:, place] for key in weighing], axis=0)
    return names, by_method


def by_lists(judged: Judged, methods: Sequence[Method]) -> list[tuple[Judged, list[Method]]]:
    """Returns rows by the lists that they merge, so that each shard is aligned once for all of them."""
    groups: dict[int, tuple[Judged, list[Method]]] = {}
    for method in methods:
        lists = judged if method.merged_as is None else method.merged_as
        groups.setdefault(id(lists), (lists, []))[1].append(method)
    return list(groups.values())


def tabulate(
    rows: pd.DataFrame,
    measured: WindowMetrics,
    references: Mapping[str, str],
    primary: str,
    settings: EvaluationConfig,
    seed: int,
    tested: Collection[str] | None = None,
) -> pd.DataFrame:
    """Returns means over users, and differences to references with intervals and p-values.

    Args:
        rows: `method`, `label` and `kind` of each row.
        measured: Of these rows.
        references: Prefix of the columns of differences -> key of the method that others are compared with.
        primary: The metric compared.
        settings: Of the bootstrap.
        seed: Of the bootstrap.
        tested: Keys of the rows that get a p-value, over which Holm corrects; None takes all but oracles.

    Returns:
        `rows` with the columns that `Comparison.table` describes.
    """
    metrics, keys = list(measured.names), list(rows["method"])
    means = np.empty((len(keys), len(metrics)))
    scores = scratch((measured.num_users, len(keys)))
    for place, key in enumerate(keys):
        by_user = per_user(measured.values[key], measured.users)
        means[place], scores[:, place] = by_user.mean(0), by_user[:, metrics.index(primary)]
    table = rows.copy()
    table[metrics] = means
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
    differences = scratch((len(scores), len(places), scores.shape[1]))  # (U, references, rows)
    np.subtract(scores[:, None, :], scores[:, places, None], out=differences)
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
