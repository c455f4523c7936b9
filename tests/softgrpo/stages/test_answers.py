"""What stages do with answers: those of test windows decide nothing, those of policy windows teach, each its own window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import EvalPrediction, Trainer

from softgrpo.algorithm.batching import PromptCollator, PromptRows, predict_logits
from softgrpo.baselines.gates import load_gate
from softgrpo.common.artifacts import (
    BEYOND,
    CHOSEN,
    CURVES,
    MERGES,
    NUMBERS,
    PLATT,
    PROMPTS,
    STATIC,
    TABLE,
    VALID_NDCG,
    WEIGHTS,
)
from softgrpo.common.digests import digest_folder
from softgrpo.common.records import Part
from softgrpo.data.windows import targets_of
from softgrpo.evaluation.chosen import read_chosen
from softgrpo.evaluation.summary import read_summary
from softgrpo.policy.card import load_card
from softgrpo.policy.model import load_policy
from softgrpo.reporting import Reporter
from softgrpo.stages import grpo as grpo_stage
from softgrpo.stages import test as test_stage
from softgrpo.stages.training import train_keeping_best
from tests.softgrpo.stages.tiny_run import (
    DEPTH,
    RECALLERS,
    TinyRun,
    coloured_corpus,
    four_windows,
    random_items,
    run_stages,
    toy_model,
)

MODEL = "model.safetensors"
TAU = 0.5


class Worlds(NamedTuple):
    """The same run twice, the second time with other items in all test windows, and the trainer of the first SofT-GRPO."""

    one: TinyRun
    other: TinyRun
    trainer: Trainer

    def files(self, stage: str, name: str) -> tuple[Path, Path]:
        """Returns a file of a stage in both."""
        return self.one.folders[stage] / name, self.other.folders[stage] / name


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Runs all stages in both; the report's pages are left out."""
    trainers: list[Trainer] = []

    def train(trainer: Trainer, work: Path, reporter: Reporter) -> dict[str, float]:
        trainers.append(trainer)
        return train_keeping_best(trainer, work, reporter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo_stage, "train_keeping_best", train)
        patch.setattr(test_stage, "write_report", lambda report, folder: None)
        model = toy_model(tmp_path_factory.mktemp("model"))
        one, other = (
            run_stages(
                tmp_path_factory.mktemp("run"),
                model,
                coloured_corpus(seed),
                random_items(len(four_windows())),
                grpo={"tau_gumbel": TAU},
            )
            for seed in (7, 8)
        )
    return Worlds(one, other, trainers[0])


# ---------------------------------------------------------------- answers of test windows


def test_the_test_answers_are_others(worlds: Worlds) -> None:
    """All rows of the table have other numbers, so that what is equal below was decided without them."""
    one, other = (pd.read_parquet(file).set_index("method")["ndcg@5"] for file in worlds.files("test", TABLE))
    assert (one != other).all()
    seen, unseen = (targets_of(world.prepared.corpus, world.prepared.windows) for world in (worlds.one, worlds.other))
    rows = worlds.one.prepared.windows.part == Part.TEST
    assert np.array_equal(seen[~rows], unseen[~rows]) and (seen[rows] != unseen[rows]).any(1).mean() > 0.9


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *(("data", name) for name in (STATIC, MERGES, PLATT, NUMBERS, PROMPTS)),
        *((stage, name) for stage in ("sft", "grpo") for name in (MODEL, "policy.json", CURVES)),
    ],
)
def test_they_change_nothing_that_is_fitted_or_chosen(worlds: Worlds, stage: str, name: str) -> None:
    """Static mixture, merge, normalisation platt, prompts, and both language models with all their evaluations: byte by byte."""
    one, other = worlds.files(stage, name)
    assert one.read_bytes() == other.read_bytes()


def test_they_change_no_stored_gate_and_not_which_method_is_chosen(worlds: Worlds) -> None:
    """Gates, item ranker, weights of static mixtures and all NDCG on validation windows, byte by byte."""
    one, other = (world.folders["gates"] for world in (worlds.one, worlds.other))
    names = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    assert {"thirds/gate.json", "stacking/gate.json", "ranker/ranker.json", CHOSEN, VALID_NDCG} <= names
    assert digest_folder(one) == digest_folder(other)
    chosen, chosen_too = worlds.files("test", CHOSEN)
    assert chosen.read_bytes() == chosen_too.read_bytes()


def test_the_chosen_method_is_the_best_on_validation_windows(worlds: Worlds) -> None:
    """Against weights that are asked for here, window by window, as on the day after."""
    run = worlds.one
    chosen, rows = read_chosen(run.folders["test"]), run.prepared.windows.of(Part.VALID)
    assert chosen is not None and chosen.windows == len(rows)
    told = {each.key: each.valid_ndcg for each in chosen.methods}
    judged, values = run.prepared.judged(rows), run.prepared.numbers.values[rows]
    weights = {
        each.key: torch.tensor(each.weights).double().expand(len(rows), 1, -1)
        for each in chosen.methods
        if each.weights is not None
    }
    for name in ("thirds", "stacking"):
        asked = load_gate(run.folders["gates"], name).weights(values, run.prepared.windows.start[rows])
        weights[f"gate_{name}"] = torch.from_numpy(asked)[:, None]
    tau = load_card(run.folders["grpo"]).reading_tau
    weights["grpo_multi"] = kept_weights(run, Part.VALID, tau).double()
    expected = {key: judged.ndcg(each).mean().item() for key, each in weights.items()}
    assert {key: told[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert set(told) - set(expected) == {"ranker", "sft_single", "sft_multi", "grpo_single"}
    assert told[chosen.best] == max(told.values(), key=lambda each: each or 0.0)
    assert read_summary(run.folders["test"]).best_method == chosen.best  # type: ignore[union-attr]


def test_they_change_the_weights_and_the_lists_of_no_row(worlds: Worlds) -> None:
    """Gates, language models and searches have the same weights in all test windows; the item ranker shows the same items."""
    one, other = map(pd.read_parquet, worlds.files("test", WEIGHTS))
    judged = ~one["method"].str.startswith("oracle")
    assert {"gate_thirds", "gate_stacking", "grpo_multi", "static"} <= set(one["method"][judged])
    pd.testing.assert_frame_equal(one[judged], other[judged], check_exact=True)
    shown, shown_too = map(pd.read_parquet, worlds.files("test", BEYOND))
    kept = ~shown["method"].str.startswith("oracle")
    assert "ranker" in set(shown["method"][kept])
    pd.testing.assert_frame_equal(shown[kept], shown_too[kept], check_exact=True)


# ---------------------------------------------------------------- answers of policy and validation windows


def kept_weights(run: TinyRun, part: Part, tau: float) -> torch.Tensor:
    """Returns the weights softmax(z / tau) of the kept model in the windows of a part, (W, 1, M)."""
    policy = load_policy(run.folders["grpo"], run.config.policy, RECALLERS)
    rows = PromptRows(run.prepared.encoded(run.prepared.windows.of(part), policy.tokenizer).input_ids, {})
    logits = predict_logits(policy.model, rows, PromptCollator(policy.tokenizer), 64, False, "kept")
    return (logits.double() / tau).softmax(-1)[:, None]


def test_the_kept_model_was_judged_on_its_own_windows(worlds: Worlds) -> None:
    """The curves hold the NDCG of both its readings, softmax(z) and softmax(z / tau); the better one is stored with it."""
    run = worlds.one
    drawn = json.loads((run.folders["grpo"] / CURVES).read_text(encoding="utf-8"))
    valid = run.prepared.judged(run.prepared.windows.of(Part.VALID))
    own = {tau: valid.ndcg(kept_weights(run, Part.VALID, tau)).mean().item() for tau in (1.0, TAU)}
    best = int(np.argmax(drawn["eval_ndcg_best_reading"]["value"]))
    assert drawn["eval_ndcg_multi"]["value"][best] == pytest.approx(own[1.0], abs=1e-6)
    assert drawn["eval_ndcg_multi_tau"]["value"][best] == pytest.approx(own[TAU], abs=1e-6)
    assert load_card(run.folders["grpo"]).reading_tau == max(own, key=own.__getitem__)


def test_logits_are_read_at_1_and_at_the_temperature_of_the_samples(worlds: Worlds) -> None:
    """Any logits: those that the trainer judges, in the order of the validation windows that it asks about."""
    asked = worlds.one.prepared.asked_rows()
    logits = torch.randn(len(asked.rows), 2, generator=torch.Generator().manual_seed(0))
    assert worlds.trainer.compute_metrics is not None
    told = worlds.trainer.compute_metrics(EvalPrediction(logits.numpy(), np.arange(len(asked.rows))))
    readings = torch.stack([logits.softmax(-1), (logits / TAU).softmax(-1)], 1)
    plain, tempered = (asked.share * worlds.one.prepared.judged(asked.rows).ndcg(readings.double()).mean(0)).tolist()
    assert abs(plain - tempered) > 1e-3, "the readings can be told apart"
    assert (told["ndcg_multi"], told["ndcg_multi_tau"]) == pytest.approx((plain, tempered), abs=1e-6)


def perfect_items() -> np.ndarray:
    """Returns lists in which `Left` has the targets of red users at the top, and `Right` those of green users; no other hit."""
    corpus, windows = coloured_corpus(), four_windows()
    targets = targets_of(corpus, windows)
    items = np.empty((len(windows), 2, DEPTH), dtype=np.int32)
    for window, wanted in enumerate(targets):
        right = windows.user[window] % 2
        others = np.setdiff1d(np.arange(corpus.num_items), wanted)
        items[window, right] = [*wanted, *others[: DEPTH - 2]]
        items[window, 1 - right] = others[-DEPTH:]
    return items


def test_soft_grpo_finds_the_recaller_that_is_perfect_for_each_user(tmp_path: Path) -> None:
    """Without SFT and from the mixture. Neighbours need different recallers, so a window's neighbours would teach something else.

    By ranks alone, any uneven mixture shows one list before the other: NDCG 1 for half of the users and 0 for the others. The even
    one shows both by turns, with the targets at 1 or 2 and at 3 or 4: at most (1 + 1 / log2(4)) / (1 + 1 / log2(3)) = 0.92.
    """
    run = run_stages(
        tmp_path,
        toy_model(tmp_path / "model"),
        coloured_corpus(),
        perfect_items(),
        "grpo",
        fusion={"method": "rrf"},
        prompt={"list_shape": False},
        sft={"num_train_epochs": 0},
        grpo={"num_train_epochs": 4, "num_generations": 16},
    )
    assert run.prepared.static.best.valid_ndcg < 0.93
    rows = run.prepared.windows.of(Part.TEST)
    weights = kept_weights(run, Part.TEST, 1.0)
    found = run.prepared.judged(rows).ndcg(weights).mean().item()
    assert found > 0.99, "the targets come first"
    assert np.array_equal(weights[:, 0].argmax(1).numpy(), run.prepared.windows.user[rows] % 2)
