"""Stage `recall` of `Text` for one part of the users, for `split.cross_fit`: lists for the windows in their tails alone.

Where the run's own recaller has an adapter, one is learnt here without these tails; where it has none, there is nothing to learn.
"""

from __future__ import annotations

from dataclasses import replace

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.common.names import TEXT, recaller_and_fold
from softgrpo.common.records import Part
from softgrpo.data.corpus import load_corpus
from softgrpo.data.cross_fit import cross_fit
from softgrpo.data.windows import load_windows
from softgrpo.recallers.by_text import TextRecaller, windows_at_a_time
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists
from softgrpo.stages.recall_text import adapt


def run(context: StageContext) -> dict[str, float]:
    config = context.config
    _, fold = recaller_and_fold(context.variant)
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    earlier = cross_fit(windows, config.split, config.seed)[fold - 1]
    embeddings = load_embeddings(context.inputs["embed"] / EMBEDDINGS)
    model = TextRecaller(embeddings, config.text.history_items, config.text.half_life)
    learnt: dict[str, float] = {}
    if (context.inputs[f"recall-{TEXT}"] / "model").is_dir():
        seen = replace(windows, train_end=earlier.train_end)
        model, learnt = adapt(context, model, "on", corpus, seen)
    batch_size = windows_at_a_time(config.recall.batch_size, corpus.num_items)
    return write_lists(context, model, corpus, earlier, batch_size, Part.EARLIER) | learnt
