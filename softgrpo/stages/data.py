"""Stage `data`: pool the candidate lists, describe every window, find the best static mixture, write the prompts.

Whether anything in them comes from behind a window's history is for the stage `check` to say, which reads what was stored here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.baselines.merge_search import search_merges
from softgrpo.common.artifacts import (
    CANDIDATES,
    CURVES,
    FEATURES,
    INPUT_SHIFTS,
    NUMBERS,
    PLATT,
    PROMPTS,
    RECALLER_CURVES,
)
from softgrpo.common.records import Corpus, ListSource, Part, Windows
from softgrpo.common.training_part import training_counts
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import load_corpus
from softgrpo.data.cross_fit import all_windows
from softgrpo.data.windows import load_windows, targets_of, write_windows
from softgrpo.policy.blocks.block import Known, UserVectors
from softgrpo.policy.blocks.pace import in_seconds
from softgrpo.policy.catalogue import Catalogue
from softgrpo.policy.features import Features, features_of_blocks, load_features, save_features
from softgrpo.policy.numbers import WindowNumbers, write_numbers
from softgrpo.policy.prompt_files import NO_PROMPT, PromptsWriter
from softgrpo.policy.prompts import PromptFormatter
from softgrpo.policy.shift import LARGE_SHIFT, InputShift, input_shifts, largest_first, save_shifts
from softgrpo.ranking.normalisation import fit_platt
from softgrpo.recallers.stored_lists import StoredLists
from softgrpo.reporting import Reporter
from softgrpo.stages.contract import StageContext
from softgrpo.stages.inputs import embeddings_of
from softgrpo.stages.merge_files import save_merges
from softgrpo.stages.shards import held_bytes, learning_windows, prompted_windows, searched, seeded_sample, shard_size
from softgrpo.stages.user_vectors import fit_vectors
from softgrpo.stages.views import View, join_features, rows_of_features, score_scales, views_of, write_pools

logger = logging.getLogger(__name__)

SHOWN_SHIFTS = 3


def recaller_curves(context: StageContext) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Returns the curves of each recaller that was trained here, by its name; those from files have none."""
    folders = {name: context.inputs[f"recall-{name}"] for name in context.config.recall.recallers}
    return {
        name: json.loads((folder / CURVES).read_text(encoding="utf-8"))
        for name, folder in folders.items()
        if (folder / CURVES).is_file()
    }


def report_shift(shifts: Sequence[InputShift]) -> dict[str, float]:
    """Warns of numbers whose mean is another where policies are chosen and tested; returns the largest shifts as metrics."""
    large = [shift for shift in largest_first(shifts) if shift.is_large]
    if large:
        logger.warning(
            "%d of %d numbers have another mean on validation or test windows than on policy windows, by more than %g standard "
            "deviations: %s. What is learnt from them may not hold there",
            len(large),
            len(shifts),
            LARGE_SHIFT,
            ", ".join(f"{shift.name} ({shift.largest:.1f})" for shift in large[:SHOWN_SHIFTS]),
        )
    return {
        "input_shift": max(shift.largest for shift in shifts),
        "input_shift_valid": max(abs(shift.valid) for shift in shifts),
        "input_shift_test": max(abs(shift.test) for shift in shifts),
    }


def user_vectors(context: StageContext, corpus: Corpus, windows: Windows) -> UserVectors | None:
    """Returns what reads the recallers' user vectors, stores how, and says whose are read; None where the block has none."""
    config = context.config
    reader = fit_vectors(config, context.inputs, corpus, windows)
    if reader is not None:
        reader.save(context.out)
    if config.features.user_vector:
        read = () if reader is None else tuple(reader.projections)
        left_out = [name for name in config.recall.recallers if name not in read]
        context.reporter.info(
            f"user vectors are read of {', '.join(read) or 'no recaller'}; without one: {', '.join(left_out) or 'none'}"
        )
    return reader


def features_of(view: View, lists: StoredLists, targets: NDArray[np.int32], k: int) -> Features:
    """Returns the features of the windows of a view.

    Args:
        view: The windows.
        lists: Of all views.
        targets: Of all views, (W, T).
        k: Cut-off of the labels.
    """
    blocks = (own for _, own in view.blocks(lists))
    return features_of_blocks(blocks, view.windows, targets[view.rows], k)


def known_blocks(
    views: Sequence[View],
    corpus: Corpus,
    lists: StoredLists,
    features: Features,
    embeddings: NDArray[np.float32] | None,
    vectors: UserVectors | None,
) -> Iterator[Known]:
    """Gives what is known of the windows of all views, a block at a time.

    Args:
        views: The windows.
        corpus: All interactions.
        lists: Of all views.
        features: Of all views.
        embeddings: Of the items' texts.
        vectors: Reads the recallers' user vectors.
    """
    seconds = in_seconds(corpus.time)
    for view in views:
        popularity = training_counts(corpus, view.windows)
        for rows, own in view.blocks(lists):
            windows = view.windows.at(rows - rows_before(view))
            of_block = rows_of_features(features, slice(int(rows[0]), int(rows[-1]) + 1))
            yield Known(corpus, windows, own, of_block, embeddings, vectors, popularity, seconds)


def rows_before(view: View) -> int:
    """Returns how many windows come before those of a view."""
    return int(view.rows.start)


def platt_of(
    config: ExperimentConfig, lists: ListSource, targets: NDArray[np.int32], rows: NDArray[np.int64]
) -> torch.Tensor | None:
    """Returns the parameters (M, 2) of the normalisation `platt`, None where no merge reads them.

    Args:
        config: The resolved configuration.
        lists: Of all views.
        targets: Of all views, (W, T).
        rows: The windows that they are fitted on.
    """
    if not any(fusion.normalisation == "platt" for fusion in config.merges):
        return None
    of_windows = np.where(targets[rows] < 0, -2, targets[rows])  # padding of the lists is -1
    fitted, own = [], lists.rows(rows)
    for place in range(len(lists.recallers)):  # one recaller at a time: all at once take several times their lists
        items = own.items[:, place, None]  # (w, 1, D)
        hits = np.zeros(items.shape, dtype=np.bool_)
        for column in of_windows.T:
            hits |= items == column[:, None, None]
        scores = np.ascontiguousarray(own.scores[:, place, None])
        fitted.append(fit_platt(torch.from_numpy(scores), torch.from_numpy(hits)))
    return torch.cat(fitted)


def sampled(
    context: StageContext, policy: NDArray[np.int64], valid: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the policy and the validation windows that searches read, see `train.sample_windows`, and says if these are few."""
    config = context.config
    limit = config.train.sample_windows
    samples = [seeded_sample(rows, limit, config.seed) for rows in (policy, valid)]
    if len(samples[0]) < len(policy) or len(samples[1]) < len(valid):
        context.reporter.info(
            f"searches read {len(samples[0]):,} of {len(policy):,} policy windows and {len(samples[1]):,} of {len(valid):,} "
            f"validation windows (train.sample_windows {limit})"
        )
    return samples[0], samples[1]


def report_earlier(reporter: Reporter, lists: ListSource, windows: Windows) -> dict[str, float]:
    """Says what `split.cross_fit` added and how wide the scores of these lists are, and returns both as metrics.

    Args:
        reporter: Receives the line.
        lists: Of all views.
        windows: Of all views.
    """
    scales = score_scales(lists, windows)
    told = ", ".join(f"{name} {scale:.2f}" for name, scale in scales.items())
    count = len(windows.of(Part.EARLIER))
    reporter.info(
        f"cross-fitting adds {count:,} windows to {len(windows.of(Part.POLICY)):,} policy windows; "
        f"width of their scores as a multiple of the policy windows': {told}"
    )
    known = {f"score_width_{name}": scale for name, scale in scales.items() if np.isfinite(scale)}
    return {"windows_earlier": float(count)} | known


def write_prompts(
    out: Path,
    config: ExperimentConfig,
    corpus: Corpus,
    windows: Windows,
    lists: StoredLists,
    features: Features,
    numbers: WindowNumbers,
) -> None:
    """Writes the prompts of the windows that have one, a block at a time, and that of the first of them as an example."""
    prompted = prompted_windows(windows, config.train.sample_windows, config.seed)
    catalogue = Catalogue.of(corpus.items, in_seconds(corpus.time), titles=config.told_prompt.titles)
    example = int(learning_windows(windows, config.train.sample_windows, config.seed)[0][0])
    with PromptsWriter(out / PROMPTS) as writer:
        for part, own in lists.blocks():
            formatter = PromptFormatter(
                config.told_prompt,
                corpus,
                windows.at(part),
                own,
                rows_of_features(features, part),
                replace(numbers, values=numbers.values[part]),
                catalogue,
            )
            prompts = [formatter.parts(row) if has else NO_PROMPT for row, has in enumerate(prompted[part].tolist())]
            writer.write(prompts)
            if part.start <= example < part.stop:
                (out / "example_prompt.txt").write_text(prompts[example - part.start].text(), encoding="utf-8")


def run(context: StageContext) -> dict[str, float]:
    config, inputs, out = context.config, context.inputs, context.out
    corpus, of_split = load_corpus(inputs["split"]), load_windows(inputs["split"])
    views = views_of(of_split, config)
    windows = all_windows(of_split, [view.windows for view in views[1:]])
    write_pools(out / CANDIDATES, [view.pool(inputs, config.recall.recallers) for view in views])
    lists = StoredLists.open(out / CANDIDATES, held_bytes(config.limits))
    (out / RECALLER_CURVES).write_text(json.dumps(recaller_curves(context)), encoding="utf-8")
    targets = targets_of(corpus, windows)
    policy = windows.of(Part.POLICY)
    learnt, chosen_on = sampled(context, policy, windows.of(Part.VALID))
    platt = platt_of(config, lists, targets, learnt)
    if platt is not None:
        (out / PLATT).write_text(json.dumps(platt.tolist()), encoding="utf-8")
    vectors = user_vectors(context, corpus, of_split)
    features = join_features([features_of(view, lists, targets, config.fusion.k) for view in views])
    save_features(out / FEATURES, features)
    features = load_features(out / FEATURES)  # mapped
    known = known_blocks(views, corpus, lists, features, embeddings_of(inputs), vectors)
    numbers = write_numbers(out / NUMBERS, known, config.told_features, policy, len(windows))
    shifts = input_shifts(numbers, windows)
    save_shifts(out / INPUT_SHIFTS, shifts)
    if not config.tells_record:
        context.reporter.info(
            f"numbers and prompts leave out the track record and the length of the history (split {config.split.method}, "
            + ("with split.cross_fit, " if config.split.cross_fit else "")
            + f"features.record {config.features.record})"
        )
    size = shard_size(config.limits, len(lists.recallers), lists.depth)
    hit = np.isfinite(features.best_rank.min(1))
    search = search_merges(
        config.merges,
        lambda fusion: searched(lists, targets, learnt, hit, fusion, platt, size),
        lambda fusion: searched(lists, targets, chosen_on, hit, fusion, platt, size),
        lists.recallers,
        config.evaluation.grid_steps,
        config.seed,
        config.evaluation.searches,
    )
    save_merges(out, search)
    static = search.static
    if len(chosen_on) < len(windows.of(Part.VALID)):
        error = searched(lists, targets, chosen_on, hit, search.chosen, platt, size).standard_error(
            torch.tensor(static.best.weights, dtype=torch.float64)
        )
        context.reporter.info(f"standard error of the mixture's NDCG on that sample of validation windows: {error:.5f}")
    write_prompts(out, config, corpus, windows, lists, features, numbers)
    mixture = dict(zip(lists.recallers, static.best.weights, strict=True))
    context.reporter.info(
        f"best static mixture ({static.best.name}; merge {search.chosen.name}, of {len(search.tried)}): {mixture}, "
        f"valid NDCG {static.best.valid_ndcg:.4f}"
    )
    k = config.fusion.k
    metrics = {f"static_weight_{name}": weight for name, weight in mixture.items()}
    metrics |= {f"valid_ndcg@{k}_{each.name}": each.valid_ndcg for each in static.candidates}
    if len(search.tried) > 1:
        metrics |= {f"valid_ndcg@{k}/merge_{each.fusion.key}": each.best.valid_ndcg for each in search.tried}
    metrics["policy_windows_with_a_hit"] = float((features.ndcg[policy].max(1) > 0).mean())
    metrics["policy_windows_with_a_tie"] = float(
        ((features.ndcg[policy] == features.ndcg[policy].max(1, keepdims=True)).sum(1) > 1).mean()
    )
    if len(views) > 1:
        write_windows(out, windows)
        metrics |= report_earlier(context.reporter, lists, windows)
    return metrics | report_shift(shifts)
