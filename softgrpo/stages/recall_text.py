"""Stage `recall` for the recaller `Text`: compare embeddings of item texts and write its candidate lists for all windows.

Where the settings want it, an adapter is learnt first, and kept if it finds more in validation windows.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.common.records import Corpus, Part, Windows
from softgrpo.data.windows import targets_of
from softgrpo.errors import RecallerError
from softgrpo.ranking.metrics import ndcg
from softgrpo.recallers.by_text import Adapter, TextRecaller, windows_at_a_time
from softgrpo.recallers.candidates import build_candidates
from softgrpo.recallers.evidence import keep_pairs
from softgrpo.recallers.text_adapter import Examples, fit_adapter
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import CurveKeeper, write_lists
from softgrpo.stages.opened import Opened

K = 10  # of the NDCG that an adapter is chosen by, as RecBole's recallers are; fusion.k must train no recaller anew
MOST_WINDOWS = 10_000
"""Validation windows that an adapter is chosen on; of more, a seeded sample."""


def run(context: StageContext) -> dict[str, float]:
    config, opened = context.config, Opened(context.config, context.inputs)
    model = frozen_recaller(opened)
    learnt: dict[str, float] = {}
    if config.text.adapter != "off":
        model, learnt = adapt(context, model, config.text.adapter, opened.corpus, opened.of_split)
    batch_size = windows_at_a_time(config.recall.batch_size, opened.corpus.num_items)
    return write_lists(context, opened, model, context.out / "model", batch_size) | learnt


def frozen_recaller(opened: Opened) -> TextRecaller:
    """Returns the recaller without an adapter."""
    text = opened.config.text
    return TextRecaller(load_embeddings(opened.inputs["embed"] / EMBEDDINGS), text.history_items, text.half_life)


def adapt(
    context: StageContext, model: TextRecaller, wanted: Literal["auto", "on"], corpus: Corpus, windows: Windows
) -> tuple[TextRecaller, dict[str, float]]:
    """Learns an adapter and keeps in the stage's folder what it read.

    Args:
        context: Of the stage.
        model: The recaller without an adapter.
        wanted: See `text.adapter`.
        corpus: All interactions.
        windows: All windows of the split, with the training part that the adapter may read.

    Returns:
        The recaller with an adapter, or as it is where that is better, and what the choice was made by.

    Raises:
        RecallerError: An adapter is wanted and there is nothing to learn from.
    """
    config = context.config
    examples = Examples.of(model, corpus, windows)
    keep_pairs(context.out, *examples.pairs())
    if not len(examples):
        if wanted == "on":
            raise RecallerError(
                "No user has two items with a text in the training part",
                "An adapter learns which item comes next",
                "Use --text.adapter off, or raise split.recaller",
                code="RECALLER-018",
            )
        context.reporter.info("Text: nothing to learn an adapter from")
        return model, {}
    valid = _sample(windows, windows.of(Part.VALID), config.seed)
    path = context.work / "adapted.safetensors"

    def value(adapter: Adapter) -> float:
        return valid_ndcg(model.adapted(adapter, path), corpus, valid, config.recall.batch_size)

    frozen = valid_ndcg(model, corpus, valid, config.recall.batch_size)
    keeper = CurveKeeper(context.reporter)
    keeper.metrics({"recall_valid_ndcg": frozen}, 0)
    adapter, best = fit_adapter(
        model,
        examples,
        value,
        epochs=config.text.adapter_epochs,
        at_least=frozen if wanted == "auto" else -math.inf,
        seed=config.seed,
        reporter=keeper,
    )
    keeper.write(context.out)
    context.reporter.info(
        f"Text: NDCG@{K} on {len(valid):,} validation windows {frozen:.4f} without an adapter, "
        + (
            f"{best:.4f} with one that learnt from {len(examples):,} next items"
            if adapter
            else "and no epoch is better"
        )
    )
    metrics = {"frozen_valid_ndcg": frozen, "adapted": float(adapter is not None)}
    if adapter is None:
        return model, metrics
    adapter.save(context.out / "model")
    return model.adapted(adapter, path), metrics | {"adapted_valid_ndcg": best}


def _sample(windows: Windows, rows: NDArray[np.int64], seed: int) -> Windows:
    """Returns some windows alone, of many a seeded sample."""
    if len(rows) > MOST_WINDOWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_WINDOWS, replace=False))
    names = [field.name for field in fields(Windows) if field.name != "train_end"]
    return Windows(**{name: getattr(windows, name)[rows] for name in names}, train_end=windows.train_end)


def valid_ndcg(model: TextRecaller, corpus: Corpus, windows: Windows, batch_size: int) -> float:
    """Returns the mean NDCG@10 of a recaller's lists for some windows."""
    batch_size = windows_at_a_time(batch_size, corpus.num_items)
    items, _ = build_candidates(model, corpus, windows, K, batch_size, "Text on validation windows")
    targets = targets_of(corpus, windows)
    hits = (items[:, :, None] == targets[:, None, :]) & (items >= 0)[:, :, None]  # (W, K, T)
    ranks = torch.from_numpy(np.where(hits.any(1), hits.argmax(1) + 1, K + 1))
    return float(ndcg(ranks, torch.from_numpy((targets >= 0).sum(1)), K).mean())
