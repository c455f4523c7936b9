"""Stage `recall` without the tails of one part of the users, for `split.cross_fit`: lists for the windows in those tails alone."""

from __future__ import annotations

import shutil

from softgrpo.common.names import recaller_and_fold
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists
from softgrpo.stages.opened import Opened
from softgrpo.stages.recall import train


def run(context: StageContext) -> dict[str, float]:
    opened = Opened(context.config, context.inputs)
    name, fold = recaller_and_fold(context.variant)
    model = train(context, name, opened.corpus, opened.views[fold].windows)
    kept = context.work / "model"  # not in what is stored: it serves these windows and no others
    shutil.rmtree(kept, ignore_errors=True)  # of a run that was broken off
    model.save(kept)
    return write_lists(context, opened, model, kept, context.config.recall.batch_size, fold)
