"""Stage `check`: whether anything leaks, in what the stages before it stored. It fails where something does."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq

from softgrpo.common.artifacts import CANDIDATES, FEATURES, NUMBERS, PROMPTS
from softgrpo.common.names import TEXT
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import check_no_leak, load_windows
from softgrpo.policy.blocks.block import Known
from softgrpo.policy.features import load_features
from softgrpo.policy.numbers import load_numbers
from softgrpo.policy.prompts import load_prompts
from softgrpo.recallers.candidates import check_candidates, read_candidates
from softgrpo.recallers.evidence import training_input
from softgrpo.stages.contract import StageContext
from softgrpo.stages.hiding import check_numbers, check_one_per_window, check_prompts, hidden_worlds
from softgrpo.stages.inputs import embeddings_of
from softgrpo.stages.leakage import check_nobody_left_out, check_track_record, check_training_input
from softgrpo.stages.user_vectors import check_projections, load_vectors


def run(context: StageContext) -> dict[str, float]:
    config, inputs = context.config, context.inputs
    corpus, windows = load_corpus(inputs["split"]), load_windows(inputs["split"])
    lists = read_candidates(inputs["data"] / CANDIDATES)
    features = load_features(inputs["data"] / FEATURES)
    numbers = load_numbers(inputs["data"] / NUMBERS)
    stored = inputs["data"] / PROMPTS
    prompts = load_prompts(stored, np.arange(pq.read_metadata(stored).num_rows))
    check_no_leak(corpus, windows)
    untrained = [name for name in config.recall.recallers if name == TEXT and config.text.adapter == "off"]
    trained = [name for name in config.recall.recallers if name not in (*config.recall.files, *untrained)]
    looked_for = [
        check_training_input(name, *training_input(inputs[f"recall-{name}"]), corpus, windows) for name in trained
    ]
    check_candidates(lists, corpus, windows)
    nobody_left_out = check_nobody_left_out(corpus, windows, config.split)
    outcomes = check_track_record(features, windows)
    check_one_per_window(prompts, numbers, windows)
    compared = []
    vectors = load_vectors(config, inputs, corpus, inputs["data"])
    if vectors is not None:
        check_projections(vectors, corpus, windows)
    known = Known(corpus, windows, lists, features, embeddings_of(inputs), vectors)
    for world in hidden_worlds(known, config.fusion.k, config.seed):
        of_numbers = check_numbers(world, numbers, config.told_features)
        compared.append((of_numbers, check_prompts(world, prompts, numbers, config.told_prompt)))
    checked = {
        "targets_looked_for_in_training_inputs": sum(looked_for),
        "candidates_not_in_histories": int((lists.items >= 0).sum()),
        "users_with_a_test_window": nobody_left_out,
        "outcomes_in_track_records": outcomes,
        "numbers_that_hide_what_comes": sum(count for count, _ in compared),
        "prompts_that_hide_what_comes": sum(count for _, count in compared),
        "recallers_trained_elsewhere": len(config.recall.files),
        "recallers_trained_on_nothing": len(untrained),
    }
    (context.out / "leakage.json").write_text(json.dumps(checked, indent=2), encoding="utf-8")
    context.reporter.info(
        "no leak: " + ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in checked.items())
    )
    if config.recall.files:
        names = ", ".join(config.recall.files)
        context.reporter.info(f"what {names} was trained on is not known here and was not checked")
    return {what: float(number) for what, number in checked.items()}
