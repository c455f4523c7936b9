"""Stage `recall`: train one recaller and write its candidate lists for all windows."""

from __future__ import annotations

import numpy as np

from softgrpo.candidates import build_candidates, check_candidates, write_candidates
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.errors import RecallerError
from softgrpo.recallers.evidence import keep_training_input
from softgrpo.records import CandidateLists, Part
from softgrpo.stages import StageContext


def run(context: StageContext) -> dict[str, float]:
    from softgrpo.recallers.recbole_adapter import train_recaller  # recbole only where it is used

    config, name = context.config, context.variant
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    model = train_recaller(
        name,
        corpus,
        windows,
        config.recall.settings_of(name),
        seed=config.seed,
        targets_per_user=config.recall.targets_per_user,
        work=context.work,
        reporter=context.reporter,
    )
    keep_training_input(context.work, context.out)
    model.save(context.out / "model")
    items, scores = build_candidates(
        model, corpus, windows, config.recall.depth, config.recall.batch_size, f"{name} candidates"
    )
    lists = CandidateLists((name,), items[:, None], scores[:, None])
    check_candidates(lists, corpus, windows)
    if not (lists.items[windows.of(Part.VALID)] >= 0).any():
        raise RecallerError(f"{name} gives no candidate at all", "a recaller ranks at least one unseen item", "Drop it")
    write_candidates(context.out / "candidates.parquet", lists)
    # how good the lists are is a number of the stage `data`: it depends on fusion.k, which must not train recallers anew
    return {"mean_list_length": float(np.mean((lists.items >= 0).sum(2)))}
