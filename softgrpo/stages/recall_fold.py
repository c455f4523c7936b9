"""Stage `recall` without the tails of one part of the users, for `split.cross_fit`: lists for the windows in those tails alone."""

from __future__ import annotations

from softgrpo.common.names import recaller_and_fold
from softgrpo.common.records import Part
from softgrpo.data.corpus import load_corpus
from softgrpo.data.cross_fit import cross_fit
from softgrpo.data.windows import load_windows
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists
from softgrpo.stages.recall import train


def run(context: StageContext) -> dict[str, float]:
    config = context.config
    name, fold = recaller_and_fold(context.variant)
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    earlier = cross_fit(windows, config.split, config.seed)[fold - 1]
    model = train(context, name, corpus, earlier)  # it is not kept: it serves these windows and no others
    return write_lists(context, model, corpus, earlier, config.recall.batch_size, Part.EARLIER)
