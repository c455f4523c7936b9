from __future__ import annotations

import numpy as np
import pytest
import torch

from softgrpo.errors import DataError
from softgrpo.evaluation.table import argmax_one_hot, compare
from tests.evaluation.setup_small import USERS, Small


def test_rows_come_in_the_published_order(case: Small) -> None:
    assert list(case.comparison.table["method"]) == [
        *("Left", "Right", "uniform", "static"),
        *("sft_single", "sft_multi", "grpo_single", "grpo_multi"),
        *("oracle_recaller", "oracle_weights"),
    ]
    marked = case.comparison.table.set_index("method")["label"]
    assert marked[case.static.best_single.name].endswith("(best single)")
    assert marked.str.contains("best single").sum() == 1


def test_columns_are_the_documented_ones(case: Small) -> None:
    """Those at 10 and 20 are there although `evaluation.ks` names 5 alone."""
    assert case.config.evaluation.ks == (5,)
    ends = ["", "_relative", "_low", "_high", "_p"]
    assert list(case.comparison.table) == [
        *("method", "label", "kind", "ndcg@5", "ndcg@10", "ndcg@20", "recall@5", "recall@10", "recall@20"),
        *("hit@5", "hit@10", "hit@20", "mrr"),
        *(f"vs_single{end}" for end in ends),
        *(f"vs_static{end}" for end in ends),
    ]
    assert list(case.comparison.windows)[:4] == ["method", "window", "user", "ndcg@5"]
    assert len(case.comparison.windows) == USERS * 10


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
    assert (table["ndcg@5"] <= table.loc["oracle_weights", "ndcg@5"]).all()


def test_a_user_with_many_windows_counts_once(case: Small) -> None:
    users = np.where(np.arange(USERS) < 20, 0, np.arange(USERS))
    again = compare(case.judged, users, np.arange(USERS), case.comparison.methods, "Left", case.config)
    left = again.windows[again.windows["method"] == "Left"]["ndcg@5"].to_numpy()
    assert again.table["ndcg@5"][0] == pytest.approx((left[:20].mean() + left[20:].sum()) / 11)


def test_no_test_windows_is_an_error(case: Small) -> None:
    none = torch.tensor([], dtype=torch.int64)
    with pytest.raises(DataError, match="no test window"):
        compare(case.judged.select(none), none.numpy(), none.numpy(), case.comparison.methods, "Left", case.config)


def test_argmax_takes_the_first_of_equals() -> None:
    assert argmax_one_hot(torch.tensor([[0.2, 0.4, 0.4], [0.1, 0.2, 0.7]])).tolist() == [[0, 1, 0], [0, 0, 1]]
