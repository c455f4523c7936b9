"""Stage `recall` of `Text` for one part of the users, for `split.cross_fit`: lists for the windows in their tails alone.

Where the run's own recaller has an adapter, one is learnt here without these tails; where it has none, there is nothing to learn.
"""

from __future__ import annotations

from dataclasses import replace

from softgrpo.common.names import TEXT, recaller_and_fold
from softgrpo.recallers.by_text import windows_at_a_time
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists
from softgrpo.stages.opened import Opened
from softgrpo.stages.recall_text import adapt, frozen_recaller


def run(context: StageContext) -> dict[str, float]:
    config, opened = context.config, Opened(context.config, context.inputs)
    _, fold = recaller_and_fold(context.variant)
    model = frozen_recaller(opened)
    learnt: dict[str, float] = {}
    if (context.inputs[f"recall-{TEXT}"] / "model").is_dir():
        seen = replace(opened.of_split, train_end=opened.views[fold].windows.train_end)
        model, learnt = adapt(context, model, "on", opened.corpus, seen)
    batch_size = windows_at_a_time(config.recall.batch_size, opened.corpus.num_items)
    return write_lists(context, opened, model, context.out / "model", batch_size, fold) | learnt
