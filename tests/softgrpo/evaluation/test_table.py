from __future__ import annotations

import numpy as np
import pytest
import torch

from softgrpo.config import FusionConfig
from softgrpo.errors import ConfigError, DataError
from softgrpo.evaluation.rows import argmax_one_hot
from softgrpo.evaluation.significance import paired_bootstrap
from softgrpo.evaluation.table import compare
from softgrpo.presets import resolve
from softgrpo.ranking.judged import JudgedLists
from tests.softgrpo.evaluation.setup_small import KEYS, USERS, Small


def test_rows_come_in_the_published_order(case: Small) -> None:
    assert list(case.comparison.table["method"]) == KEYS
    marked = case.comparison.table.set_index("method")["label"]
    assert marked[case.static.best_single.name].endswith("(best single)")
    assert marked.str.contains("best single").sum() == 1


def test_columns_are_the_documented_ones(case: Small) -> None:
    """Those at 10 and 20 are there although `evaluation.ks` names 5 alone."""
    assert case.config.evaluation.ks == (5,)
    ends = ["", "_relative", "_low", "_high"]
    assert list(case.comparison.table) == [
        *("method", "label", "kind", "ndcg@5", "ndcg@10", "ndcg@20", "recall@5", "recall@10", "recall@20"),
        *("hit@5", "hit@10", "hit@20", "mrr"),
        *(f"vs_single{end}" for end in (*ends, "_p")),
        *(f"vs_static{end}" for end in (*ends, "_p")),
        *("vs_single_p_bound", "vs_static_p_bound"),
    ]
    assert list(case.comparison.windows)[:4] == ["method", "window", "user", "ndcg@5"]
    assert len(case.comparison.windows) == USERS * len(KEYS)


def test_table_values_follow_from_the_windows(case: Small) -> None:
    table = case.comparison.table.set_index("method")
    means = case.comparison.windows.groupby("method")["ndcg@5"].mean()
    assert table["ndcg@5"].to_dict() == pytest.approx(means.to_dict())
    base = means[case.comparison.best_single]
    assert table.loc["grpo_multi", "vs_single"] == pytest.approx(means["grpo_multi"] - base)
    assert table.loc["grpo_multi", "vs_single_relative"] == pytest.approx(means["grpo_multi"] / base - 1)
    assert table.loc["grpo_multi", "vs_single_low"] > 0
    assert np.isnan(table.loc[case.comparison.best_single, "vs_single"])
    assert table.loc[["oracle_recaller", "oracle_weights"], "vs_single_p"].isna().all()
    assert (table["ndcg@5"].drop("ranker") <= table.loc["oracle_weights", "ndcg@5"]).all()


def test_a_user_with_many_windows_counts_once(case: Small) -> None:
    users = np.where(np.arange(USERS) < 20, 0, np.arange(USERS))
    again = compare(case.judged, users, np.arange(USERS), case.comparison.methods, "Left", case.config)
    left = again.windows[again.windows["method"] == "Left"]["ndcg@5"].to_numpy()
    assert again.table["ndcg@5"][0] == pytest.approx((left[:20].mean() + left[20:].sum()) / 11)


def test_uniform_merges_are_judged_by_their_own_merge(case: Small) -> None:
    """A row of another merge holds the metrics of that merge, by a comparison that has no other."""
    labels = case.comparison.table.set_index("method")["label"]
    assert labels["uniform_score"] == "Uniform merge (score, rank_reciprocal)"
    assert labels["uniform_quota"] == "Uniform merge (quota)"
    found = {}
    for key in ("uniform_score", "uniform_quota", "uniform_rrf"):
        method = case.comparison.method(key)
        lists = method.merged_as or case.judged
        assert lists.fusion.method == key.removeprefix("uniform_")
        found[key] = case.comparison.windows.loc[case.comparison.windows["method"] == key, "ndcg@5"].to_numpy()
        assert found[key] == pytest.approx(lists.metrics(method.weights, (5,))["ndcg@5"].numpy())
        assert (method.weights == 0.5).all()
    assert not np.array_equal(found["uniform_quota"], found["uniform_score"])


def test_a_ranker_is_judged_by_its_own_order_and_bounds_no_weights(case: Small) -> None:
    """All found targets come first, so a window with both has NDCG 1, one with a single one 1 / (1 + 1 / log2 3) = 0.6131."""
    row = case.comparison.method("ranker")
    assert not row.weighs
    assert row.weights.shape == (USERS, 1)
    found = case.comparison.windows.loc[case.comparison.windows["method"] == "ranker", "ndcg@5"].to_numpy()
    both = [all(target in case.items[user] for target in case.targets[user]) for user in range(USERS)]
    assert 0 < sum(both) < USERS
    assert found == pytest.approx(np.where(both, 1.0, 0.61315), abs=1e-5)
    table = case.comparison.table.set_index("method")
    assert table.loc["ranker", "ndcg@5"] > table.loc["oracle_weights", "ndcg@5"]
    assert not np.isnan(table.loc["ranker", "vs_static_p"])


def test_global_rows_hold_what_the_searches_found(case: Small) -> None:
    candidates = {each.name: each for each in case.static.candidates}
    for name in ("grid", "cem"):
        expected = torch.tensor(candidates[name].weights, dtype=torch.float64)
        assert (case.comparison.method(f"global_{name}").weights == expected).all()
    best = case.comparison.method("static")
    assert (best.weights == torch.tensor(case.static.best.weights, dtype=torch.float64)).all()


def test_differences_to_both_references_use_the_same_draws(case: Small) -> None:
    """An interval equals that of the comparison alone."""
    frames = dict(tuple(case.comparison.windows.groupby("method", sort=False)))
    table = case.comparison.table.set_index("method")
    settings = case.config.evaluation
    for name, reference in {"vs_single": case.comparison.best_single, "vs_static": "static"}.items():
        difference = frames["grpo_multi"]["ndcg@5"].to_numpy() - frames[reference]["ndcg@5"].to_numpy()
        alone = paired_bootstrap(difference, settings.bootstrap, settings.confidence, case.config.seed)
        assert table.loc["grpo_multi", f"{name}_low"] == pytest.approx(alone.low[0], abs=1e-12)
        assert table.loc["grpo_multi", f"{name}_high"] == pytest.approx(alone.high[0], abs=1e-12)


def test_a_cut_off_beyond_the_lists_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cut-off of 50 is deeper than recall.depth = 30"):
        resolve("ml-100k", "tiny", overrides={"recall.depth": 30})
    with pytest.raises(ConfigError, match=r"cut-off of 40 is deeper than recall.depth = 30"):
        resolve("ml-100k", "tiny", overrides={"recall.depth": 30, "evaluation.ks": [5], "fusion.k": 40})


def test_a_baseline_named_twice_or_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match="names one twice"):
        resolve("ml-100k", "tiny", overrides={"evaluation.baselines": ["cem", "cem"]})
    with pytest.raises(ConfigError, match="forest"):
        resolve("ml-100k", "tiny", overrides={"evaluation.baselines": ["forest"]})
    assert resolve("ml-100k", "tiny", overrides={"evaluation.baselines": []}).evaluation.searches == ()


def test_no_test_windows_is_an_error(case: Small) -> None:
    none = torch.tensor([], dtype=torch.int64)
    with pytest.raises(DataError, match="no test window"):
        compare(case.judged.select(none), none.numpy(), none.numpy(), case.comparison.methods, "Left", case.config)


def test_argmax_takes_the_first_of_equals() -> None:
    assert argmax_one_hot(torch.tensor([[0.2, 0.4, 0.4], [0.1, 0.2, 0.7]])).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_an_oracle_bounds_every_row_in_every_window_by_every_metric(case: Small) -> None:
    """The best recaller by NDCG@5 need not be the best by Hit@20: the oracle chooses anew for each metric."""
    metrics = [name for name in case.comparison.windows.columns if name not in ("method", "window", "user")]
    values = {key: frame[metrics].to_numpy() for key, frame in case.comparison.windows.groupby("method")}
    assert all((values["oracle_weights"] >= each).all() for key, each in values.items() if key != "ranker")
    alone = np.maximum(values["Left"], values["Right"])
    assert (values["oracle_recaller"] == alone).all()


def test_an_oracle_chooses_anew_for_each_metric() -> None:
    """Left has one target first, the other nowhere; Right has both, at ranks 3 and 4.

    NDCG@2: left (1 / 1) / (1 + 1 / log2 3) = 0.6131, right 0. Recall@4: left 1/2, right 1. MRR: left 1, right 1/3.
    """
    items = torch.tensor([[[1, 8, 9, 7], [5, 6, 1, 2]]])
    judged = JudgedLists.build(
        items, torch.arange(4, 0, -1.0).expand(1, 2, 4), torch.tensor([[1, 2]]), FusionConfig(k=2, method="score")
    )
    best = judged.best_metrics(torch.eye(2, dtype=torch.float64), (2, 4))
    assert best["ndcg@2"].item() == pytest.approx(0.61315, abs=1e-5)
    assert best["recall@4"].item() == 1.0
    assert best["hit@2"].item() == 1.0
    assert best["mrr"].item() == 1.0


def test_an_oracle_gets_nothing_where_no_list_holds_a_target() -> None:
    items = torch.tensor([[[1, 2], [3, 4]], [[1, 2], [3, 4]]])
    targets = torch.tensor([[9], [4]])
    judged = JudgedLists.build(items, torch.tensor([2.0, 1.0]).expand(2, 2, 2), targets, FusionConfig(k=2))
    best = judged.best_metrics(torch.eye(2, dtype=torch.float64), (1, 2))
    assert best["hit@2"].tolist() == [0.0, 1.0]
    assert best["hit@1"].tolist() == [0.0, 0.0]
    assert best["mrr"].tolist() == [0.0, 0.5]
