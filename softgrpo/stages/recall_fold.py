"""Stage `recall` without the tails of one part of the users, for `split.cross_fit`: lists for the windows in those tails alone."""

from __future__ import annotations

from softgrpo.common.names import recaller_and_fold
from softgrpo.common.records import Part
from softgrpo.data.corpus import load_corpus
from softgrpo.data.cross_fit import cross_fit
from softgrpo.data.windows import load_windows
from softgrpo.recallers.evidence import keep_training_input
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import CurveKeeper, write_lists


def run(context: StageContext) -> dict[str, float]:
    from softgrpo.recallers.recbole_adapter import train_recaller  # recbole only where it is used

    config = context.config
    name, fold = recaller_and_fold(context.variant)
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    earlier = cross_fit(windows, config.split, config.seed)[fold - 1]
    keeper = CurveKeeper(context.reporter)
    model = train_recaller(
        name,
        corpus,
        earlier,
        config.recall.settings_of(name),
        seed=config.seed,
        targets_per_user=config.recall.targets_per_user,
        work=context.work,
        reporter=keeper,
    )
    keeper.write(context.out)
    keep_training_input(context.work, context.out)
    # the model itself is not kept: it serves these windows and no others
    return write_lists(context, model, corpus, earlier, config.recall.batch_size, Part.EARLIER)
