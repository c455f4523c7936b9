"""Stage `recall` for the recaller `Text`: compare embeddings of item texts and write its candidate lists for all windows."""

from __future__ import annotations

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.by_text import TextRecaller, windows_at_a_time
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists


def run(context: StageContext) -> dict[str, float]:
    config = context.config
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    embeddings = load_embeddings(context.inputs["embed"] / EMBEDDINGS)
    model = TextRecaller(embeddings, config.text.history_items, config.text.half_life)
    return write_lists(context, model, corpus, windows, windows_at_a_time(config.recall.batch_size, corpus.num_items))
