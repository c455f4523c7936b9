"""Runs of tiny stages, for the commands that read stored runs: one of an earlier version, without gates, and one of today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from softgrpo.baselines.gates import Gate
from softgrpo.baselines.item_ranker import ItemRanker
from softgrpo.baselines.merge_search import MergeSearch, TriedMerge
from softgrpo.baselines.static_mixture import Candidate, StaticMixture
from softgrpo.baselines.thirds import FittedThirds
from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import write_corpus
from softgrpo.data.windows import make_windows, write_windows
from softgrpo.evaluation.chosen import Chosen, UsableMethod, write_chosen
from softgrpo.evaluation.pages.provenance import PROVENANCE, place
from softgrpo.policy.number_scale import NumberScale
from softgrpo.policy.numbers import WindowNumbers
from softgrpo.presets import resolve
from softgrpo.recallers.stored_lists import write_candidates
from softgrpo.stages.contract import Node, Stage, StageContext
from softgrpo.stages.merge_files import save_merges
from tests.softgrpo.data.cases import corpus_of
from tests.support.whole import save_numbers

NAMES = ("A", "B")
SETTINGS = {"recall.recallers": list(NAMES), "recall.files": {"A": "a", "B": "b"}, "fusion.k": 5}
METRICS = {"ndcg@5": 0.2, "ndcg@10": 0.25, "ndcg@20": 0.3, "recall@10": 0.4, "recall@20": 0.5}
DIFFERENCES = [
    f"vs_{name}{piece}" for name in ("single", "static") for piece in ("", "_relative", "_low", "_high", "_p")
]


def world() -> tuple[Corpus, Windows]:
    corpus = corpus_of([[(user + 3 * step) % 40 for step in range(12)] for user in range(6)])
    return corpus, make_windows(corpus, ExperimentConfig().split)


def fill_split(context: StageContext) -> dict[str, float]:
    corpus, windows = world()
    write_corpus(context.out, corpus)
    write_windows(context.out, windows)
    return {}


def fill_data(context: StageContext) -> dict[str, float]:
    _, windows = world()
    items = (np.arange(len(windows))[:, None, None] + np.array([[0], [7]]) + np.arange(12)) % 39
    scores = np.broadcast_to(np.arange(12, 0, -1, dtype=np.float32), items.shape)
    write_candidates(context.out / "candidates.parquet", CandidateLists(NAMES, items.astype(np.int32), scores.copy()))
    best = Candidate("grid", (0.75, 0.25), 0.1, 0.2)
    merge = context.config.fusion.merges[1]
    save_merges(context.out, MergeSearch((TriedMerge(merge, best),), merge, StaticMixture(best, best, (best,))))
    return {}


def fill_test(context: StageContext) -> dict[str, float]:
    rows = {"method": ["A", "grpo_multi"], "label": ["A", "SofT-GRPO multi"], "kind": ["single", "learned"]}
    pd.DataFrame(rows | METRICS | dict.fromkeys(DIFFERENCES, 0.1)).to_parquet(context.out / "table.parquet")
    count = len(world()[1].of(Part.TEST))
    weights = pd.DataFrame({"A": np.linspace(0, 1, count), "B": np.linspace(1, 0, count), "method": "grpo_multi"})
    weights.to_parquet(context.out / "weights.parquet")
    (context.out / "figures").mkdir()
    (context.out / "figures/a.png").write_bytes(b"a figure")
    (context.out / "report.html").write_text(f"<h1>report</h1>{place(PROVENANCE)}")
    (context.out / "report.md").write_text(f"# report\n{place(PROVENANCE)}")
    return {"ndcg@5/grpo_multi": METRICS["ndcg@5"]}


def fill_policy(context: StageContext) -> dict[str, float]:
    (context.out / "made").write_text("made")
    return {"best_ndcg": 0.2, "validation_windows": 6.0}


CHOICE = Chosen(
    5,
    6,
    "ranker",
    (
        UsableMethod("B", "B (best single)", "single", 0.1, (0.0, 1.0)),
        UsableMethod("gate_thirds", "Static mixture per third", "gate", 0.15),
        UsableMethod("ranker", "Item ranker, boosted trees", "ranker", 0.3),
    ),
)
POLICY = UsableMethod("grpo_multi", "SofT-GRPO multi", "learned", 0.2)


def fill_gates(context: StageContext) -> dict[str, float]:
    write_chosen(context.out, CHOICE)
    thirds = FittedThirds(np.array([2.0, 4.0]), torch.tensor([[0.2, 0.8]] * 3).double(), 0.15, "own weights")
    Gate("thirds", NumberScale.unknown(("items",)), thirds).save(context.out / "thirds")
    ItemRanker(None, 0, 0.3, "by rank").save(context.out / "ranker")
    return {}


def fill_chosen_test(context: StageContext) -> dict[str, float]:
    metrics = fill_test(context)
    path = context.out / "weights.parquet"
    weights = pd.read_parquet(path)
    of_the_gate = weights.assign(A=0.2, B=0.8, method="gate_thirds")
    pd.concat([weights, of_the_gate, weights.assign(method="oracle_weights")]).to_parquet(path)
    write_chosen(context.out, Chosen.of(5, 6, (*CHOICE.methods, POLICY)))
    return metrics


def fill_numbers(context: StageContext) -> dict[str, float]:
    values = np.ones((len(world()[1]), 1))
    save_numbers(context.out / "numbers.safetensors", WindowNumbers(("items",), values, np.zeros((1, 4))))
    return fill_data(context)


def nodes(gates: bool = False) -> tuple[Node, ...]:
    def stage(name: str, fill: Any) -> Stage:
        return Stage(name, fill, lambda config, _: {"name": name}, "softgrpo.common.columns", ("numpy",))

    split = Node("split", stage("split", fill_split), "", ())
    if gates:
        return (
            split,
            Node("data", stage("data", fill_numbers), "", ("split",)),
            Node("gates", stage("gates", fill_gates), "", ("split", "data")),
            Node("grpo", stage("grpo", fill_policy), "", ("split", "data")),
            Node("test", stage("test", fill_chosen_test), "", ("split", "data", "gates", "grpo")),
        )
    return (
        split,
        Node("data", stage("data", fill_data), "", ("split",)),
        Node("grpo", stage("grpo", fill_policy), "", ("split", "data")),
        Node("test", stage("test", fill_test), "", ("split", "data", "grpo")),
    )


def run(output: Path, until: int = 5, gates: bool = False) -> str:
    """Runs the stages as a flow does, with the stage `gates` or without it; returns the id of the run."""
    from prefect import flow

    from softgrpo.flows.pipeline import execute

    config = resolve("shop", "tiny", overrides=SETTINGS)
    result = flow(lambda: execute(nodes(gates)[:until], config, output=output), validate_parameters=False)()
    return result.run_id
