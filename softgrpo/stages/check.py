"""Stage `check`: whether anything leaks, in what the stages before it stored. It fails where something does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from softgrpo.common.artifacts import CANDIDATES, FEATURES, NUMBERS, PROMPTS
from softgrpo.common.names import TEXT
from softgrpo.common.records import CandidateLists, Corpus
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.cross_fit import all_windows, check_parts
from softgrpo.data.windows import check_no_leak, load_windows
from softgrpo.policy.blocks.block import Known
from softgrpo.policy.features import Features, load_features
from softgrpo.policy.numbers import WindowNumbers, load_numbers
from softgrpo.policy.prompt_files import load_prompts
from softgrpo.policy.prompts import PromptParts
from softgrpo.recallers.candidate_checks import check_candidates
from softgrpo.recallers.candidates import read_candidates
from softgrpo.recallers.evidence import training_input
from softgrpo.stages.contract import StageContext
from softgrpo.stages.hiding import check_numbers, check_one_per_window, check_prompts, hidden_worlds
from softgrpo.stages.inputs import embeddings_of
from softgrpo.stages.leakage import check_nobody_left_out, check_same_windows, check_track_record, check_training_input
from softgrpo.stages.shards import prompted_windows
from softgrpo.stages.user_vectors import check_projections, load_vectors
from softgrpo.stages.views import View, rows_of_features, rows_of_lists, views_of


@dataclass(frozen=True)
class Stored:
    """What the stage `data` stored of W windows.

    Attributes:
        lists: Their candidate lists.
        features: Their features.
        numbers: Their numbers.
        prompts: Their prompts.
    """

    lists: CandidateLists
    features: Features
    numbers: WindowNumbers
    prompts: list[PromptParts]

    @classmethod
    def load(cls, folder: Path) -> Stored:
        """Reads the files of the stage `data`."""
        prompts = folder / PROMPTS
        return cls(
            read_candidates(folder / CANDIDATES),
            load_features(folder / FEATURES),
            load_numbers(folder / NUMBERS),
            load_prompts(prompts, np.arange(pq.read_metadata(prompts).num_rows)),
        )

    def of(self, rows: slice) -> Stored:
        """Returns what is stored of some of the windows."""
        return Stored(
            rows_of_lists(self.lists, rows),
            rows_of_features(self.features, rows),
            replace(self.numbers, values=self.numbers.values[rows]),
            self.prompts[rows],
        )


def check_lists(context: StageContext, view: View, corpus: Corpus, lists: CandidateLists) -> dict[str, int]:
    """Looks for leaks in what the recallers of a view were trained on and in their lists.

    Args:
        context: Of the stage.
        view: Some windows and the recallers that made their lists.
        corpus: All interactions.
        lists: Of these windows.

    Returns:
        What it looked at, by name.

    Raises:
        LeakageError: Something leaks.
        CandidateError: A list is not what it has to be.
    """
    config, inputs = context.config, context.inputs
    looked_for = [
        check_training_input(view.node(name), *training_input(inputs[view.node(name)]), corpus, view.windows)
        for name in config.recall.recallers
        if name not in (*config.recall.files, *untrained(config))
    ]
    check_candidates(lists, corpus, view.windows)
    return {
        "targets_looked_for_in_training_inputs": sum(looked_for),
        "candidates_not_in_histories": int((lists.items >= 0).sum()),
    }


def check_inputs(context: StageContext, known: Known, stored: Stored) -> dict[str, int]:
    """Looks for leaks in the numbers and prompts of the windows of a view.

    Args:
        context: Of the stage.
        known: What is known of the windows.
        stored: What the stage `data` stored of them.

    Returns:
        What it looked at, by name.

    Raises:
        LeakageError: Something leaks.
    """
    config = context.config
    outcomes = check_track_record(stored.features, known.windows)
    compared = []
    for world in hidden_worlds(known, config.fusion.k, config.seed):
        of_numbers = check_numbers(world, stored.numbers, config.told_features)
        compared.append((of_numbers, check_prompts(world, stored.prompts, stored.numbers, config.told_prompt)))
    return {
        "outcomes_in_track_records": outcomes,
        "numbers_that_hide_what_comes": sum(count for count, _ in compared),
        "prompts_that_hide_what_comes": sum(count for _, count in compared),
    }


def untrained(config: ExperimentConfig) -> list[str]:
    """Returns the recallers of the pool that are trained on nothing."""
    return [name for name in config.recall.recallers if name == TEXT and config.text.adapter == "off"]


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Returns the sums of equally named counts."""
    return {name: sum(each[name] for each in counts) for name in counts[0]}


def run(context: StageContext) -> dict[str, float]:
    config, inputs = context.config, context.inputs
    corpus, of_split = load_corpus(inputs["split"]), load_windows(inputs["split"])
    views = views_of(of_split, config)
    windows = all_windows(of_split, [view.windows for view in views[1:]])
    stored = Stored.load(inputs["data"])
    check_no_leak(corpus, of_split)
    check_parts(corpus, of_split, [view.windows for view in views[1:]])
    of_lists = [check_lists(context, view, corpus, stored.of(view.rows).lists) for view in views]
    nobody_left_out = check_nobody_left_out(corpus, of_split, config.split)
    if len(views) > 1:
        check_same_windows(load_windows(inputs["data"]), windows)
    prompted = prompted_windows(windows, config.train.sample_windows, config.seed)
    check_one_per_window(stored.prompts, stored.numbers, windows, prompted)
    vectors = load_vectors(config, inputs, corpus, inputs["data"])
    if vectors is not None:
        check_projections(vectors, corpus, of_split)
    embeddings = embeddings_of(inputs)
    of_inputs = []
    for view in views:
        own = stored.of(view.rows)
        known = Known(corpus, view.windows, own.lists, own.features, embeddings, vectors)
        of_inputs.append(check_inputs(context, known, own))
    checked = {
        **_summed(of_lists),
        "users_with_a_test_window": nobody_left_out,
        **_summed(of_inputs),
        **({"windows_added_by_cross_fitting": len(windows) - len(of_split)} if len(views) > 1 else {}),
        "recallers_trained_elsewhere": len(config.recall.files),
        "recallers_trained_on_nothing": len(untrained(config)),
    }
    (context.out / "leakage.json").write_text(json.dumps(checked, indent=2), encoding="utf-8")
    context.reporter.info(
        "no leak: " + ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in checked.items())
    )
    if config.recall.files:
        names = ", ".join(config.recall.files)
        context.reporter.info(f"what {names} was trained on is not known here and was not checked")
    return {what: float(number) for what, number in checked.items()}
