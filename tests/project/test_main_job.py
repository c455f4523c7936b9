"""The main job as `make run` does it: all users, all recallers, all stages, all rows; its repetition reuses everything.

Only the trainings are shorter: SASRec has three epochs, and the language model 64 windows to learn from, 64 that choose it, and
prompts without items.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


LESS = (
    *("--train.max_train_windows", "64", "--train.max_valid_windows", "64"),
    *("--prompt.history_items", "0", "--prompt.top_items", "0", "--recall.settings.SASRec.epochs", "3"),
)


def run(output: Path) -> str:
    """Makes one run and returns what it said."""
    command = [
        sys.executable,
        "-m",
        "softgrpo.flows.cli",
        "run",
        "ml-100k",
        "full",
        "tiny",
        "--output",
        str(output),
        *LESS,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_main_job(tmp_path: Path) -> None:
    run(tmp_path)
    table = pd.read_parquet(next((tmp_path / "stages").glob("test-*/table.parquet"))).set_index("method")
    windows = pd.read_parquet(next((tmp_path / "stages").glob("test-*/windows.parquet")))
    assert windows.groupby("method")["user"].nunique().eq(943).all()
    # recallers that learnt something, far above chance: 5 random of 1,300 items hit 10 places with NDCG about 0.004
    assert (table.loc[["SASRec", "EASE", "Text"], "ndcg@10"] > 0.04).all()
    assert table.loc["grpo_multi", "vs_single_low"] > 0, "the router must beat the best single recaller"
    rows = ("uniform_rrf", "global_grid", "global_cem", "global_bayes", "static")
    gates = ("gate_dirichlet", "gate_stacking", "gate_boosting", "gate_network", "gate_discrete")
    others = ("gate_thirds", "gate_neighbours", "ranker")
    assert {*rows, *gates, *others, "uniform_score", "uniform_quota", "sft_single", "sft_multi"} <= set(table.index)
    assert {f"{name}@{k}" for name in ("ndcg", "recall", "hit") for k in (5, 10, 20, 50)} | {"mrr"} <= set(
        table.columns
    )
    assert table.loc["static", "ndcg@10"] > table.loc["uniform_rrf", "ndcg@10"], "a search must beat no search"
    assert table.loc["oracle_weights", "ndcg@10"] > table.loc["grpo_multi", "ndcg@10"]
    assert run(tmp_path).split("stages run")[1].split()[0] == "none"
