"""Stage `data`: pool the candidate lists, describe every window, find the best static mixture, write the prompts.

Whether anything in them comes from behind a window's history is for the stage `check` to say, which reads what was stored here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq
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
from softgrpo.common.records import CandidateLists, ListSource, Part, Windows
from softgrpo.common.scratch import scratch
from softgrpo.config import ExperimentConfig
from softgrpo.data.windows import write_windows
from softgrpo.policy.features import Features, ListNumbers, features_by, load_features, save_features
from softgrpo.policy.numbers import WindowNumbers, write_numbers
from softgrpo.policy.prompt_files import PROMPT_SCHEMA, load_prompts
from softgrpo.policy.shift import LARGE_SHIFT, InputShift, input_shifts, largest_first, save_shifts
from softgrpo.ranking.normalisation import fit_platt
from softgrpo.recallers.candidates import BLOCK
from softgrpo.recallers.stored_lists import ListsWriter, StoredLists
from softgrpo.reporting import Reporter
from softgrpo.stages.contract import StageContext
from softgrpo.stages.described import array_table, of_numbers, open_lists, open_numbers, open_prompts, pieces_of
from softgrpo.stages.merge_files import save_merges
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, Piece, array_text
from softgrpo.stages.shards import held_bytes, in_shards, learning_windows, searched, seeded_sample, shard_size
from softgrpo.stages.user_vectors import VectorReader, fit_vectors
from softgrpo.stages.views import join_features, score_scales

logger = logging.getLogger(__name__)

PLATT_WINDOWS = 50_000
"""Windows that `platt` is fitted on, at most: its two numbers for each recaller need no more, and a fit takes 33 bytes an entry."""

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


def user_vectors(context: StageContext, opened: Opened) -> VectorReader | None:
    """Returns what reads the recallers' user vectors, stores how, and says whose are read; None where the block has none."""
    config = context.config
    if not config.features.user_vector:
        return None
    reader = fit_vectors(config, opened.recallers, opened.corpus, opened.of_split)
    if reader is not None:
        reader.save(context.out)
    read = () if reader is None else tuple(reader.projections)
    left_out = [name for name in config.recall.recallers if name not in read]
    context.reporter.info(
        f"user vectors are read of {', '.join(read) or 'no recaller'}; without one: {', '.join(left_out) or 'none'}"
    )
    return reader


def write_lists(context: StageContext, opened: Opened) -> Features:
    """Writes the lists of all views into one file, one behind the other, and returns the features of their windows."""
    pool, path, count = opened.pools[0], context.out / CANDIDATES, len(opened.windows)

    def written(writer: ListsWriter) -> Iterator[Arrays]:
        for made in context.pieces.make(open_lists, opened, {}, pieces_of(opened)):
            writer.write(CandidateLists(pool.recallers, made["items"], made["scores"]))
            yield made

    with ListsWriter(path, pool.recallers, pool.depth, count) as writer:
        known = ListNumbers.join(written(writer), count)
    return join_features([features_by(known.rows(view.rows), view.windows) for view in opened.views])


def make_numbers(
    context: StageContext, opened: Opened, features: Features, vectors: VectorReader | None
) -> WindowNumbers:
    """Stores the numbers of all windows and returns them."""
    common = {} if vectors is None else vectors.tensors
    made = context.pieces.make(open_numbers, opened, common, pieces_of(opened, features))
    parts = ((json.loads(array_text(each["names"])), each["values"]) for each in made)
    return write_numbers(context.out / NUMBERS, parts, opened.windows.of(Part.POLICY), len(opened.windows))


def platt_of(
    config: ExperimentConfig, lists: ListSource, targets: NDArray[np.int32], rows: NDArray[np.int64]
) -> torch.Tensor | None:
    """Returns the parameters (M, 2) of the normalisation `platt`, None where no merge reads them.

    Args:
        config: The resolved configuration.
        lists: Of all views.
        targets: Of all views, (W, T).
        rows: The windows that they are fitted on, a sample of them where they are more than `PLATT_WINDOWS`.
    """
    if not any(fusion.normalisation == "platt" for fusion in config.merges):
        return None
    read = seeded_sample(rows, PLATT_WINDOWS, config.seed)
    shape = (len(read), len(lists.recallers), lists.depth)
    scores, hits = scratch(shape, np.float32), scratch(shape, np.bool_)
    for places in in_shards(np.arange(len(read)), BLOCK):
        block = read[places]
        own = lists.rows(block)
        scores[places] = own.scores
        of_windows = np.where(targets[block] < 0, -2, targets[block])  # padding of the lists is -1
        for column in of_windows.T:
            hits[places] |= own.items == column[:, None, None]
    return fit_platt(torch.from_numpy(scores), torch.from_numpy(hits))


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


def write_prompts(context: StageContext, opened: Opened, features: Features, numbers: WindowNumbers) -> None:
    """Writes the prompts of the windows that have one, a piece at a time, and that of the first of them as an example."""
    asked = (
        Piece(piece.rows, {**piece.given, "values": numbers.values[piece.rows]})
        for piece in pieces_of(opened, features)
    )
    path = context.out / PROMPTS
    with pq.ParquetWriter(path, PROMPT_SCHEMA) as file:
        for made in context.pieces.make(open_prompts, opened, of_numbers(numbers), asked):
            file.write_table(array_table(made["table"]))
    first = learning_windows(opened.windows, context.config.train.sample_windows, context.config.seed)[0][:1]
    (context.out / "example_prompt.txt").write_text(load_prompts(path, first)[0].text(), encoding="utf-8")


def run(context: StageContext) -> dict[str, float]:
    config, out = context.config, context.out
    opened = Opened(config, context.inputs)
    views, windows, targets = opened.views, opened.windows, opened.targets
    save_features(out / FEATURES, write_lists(context, opened))
    features = load_features(out / FEATURES)  # mapped
    opened.lists = lists = StoredLists.open(out / CANDIDATES, held_bytes(config.limits))
    (out / RECALLER_CURVES).write_text(json.dumps(recaller_curves(context)), encoding="utf-8")
    policy = windows.of(Part.POLICY)
    learnt, chosen_on = sampled(context, policy, windows.of(Part.VALID))
    platt = platt_of(config, lists, targets, learnt)
    if platt is not None:
        (out / PLATT).write_text(json.dumps(platt.tolist()), encoding="utf-8")
    numbers = make_numbers(context, opened, features, user_vectors(context, opened))
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
    write_prompts(context, opened, features, numbers)
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
