"""Stage `recall`: train one recaller and write its candidate lists for all windows."""

from __future__ import annotations

from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.evidence import keep_training_input
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import CurveKeeper, write_lists


def run(context: StageContext) -> dict[str, float]:
    from softgrpo.recallers.recbole_adapter import train_recaller  # recbole only where it is used

    config, name = context.config, context.variant
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    keeper = CurveKeeper(context.reporter)
    model = train_recaller(
        name,
        corpus,
        windows,
        config.recall.settings_of(name),
        seed=config.seed,
        targets_per_user=config.recall.targets_per_user,
        work=context.work,
        reporter=keeper,
    )
    keeper.write(context.out)
    keep_training_input(context.work, context.out)
    model.save(context.out / "model")
    return write_lists(context, model, corpus, windows, config.recall.batch_size)
