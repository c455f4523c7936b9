"""Stage `recall`: train one recaller and write its candidate lists for all windows."""

from __future__ import annotations

from softgrpo.common.records import Corpus, Windows
from softgrpo.recallers.candidates import RecallerModel
from softgrpo.recallers.evidence import keep_training_input
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import CurveKeeper, write_lists
from softgrpo.stages.opened import Opened


def train(
    context: StageContext, name: str, corpus: Corpus, windows: Windows, *, hold_back: bool = True
) -> RecallerModel:
    """Trains a recaller and writes its curves and what it was trained on.

    Args:
        context: Of the stage.
        name: The recaller.
        corpus: All interactions.
        windows: They say where its training part ends.
        hold_back: See `softgrpo.recallers.recbole_adapter.train_recaller`.

    Raises:
        RecallerError: RecBole cannot train it on these data.
    """
    from softgrpo.recallers.recbole_adapter import train_recaller  # recbole only where it is used

    config, keeper = context.config, CurveKeeper(context.reporter)
    model = train_recaller(
        name,
        corpus,
        windows,
        config.recall.settings_of(name),
        seed=config.seed,
        targets_per_user=config.recall.targets_per_user,
        work=context.work,
        reporter=keeper,
        hold_back=hold_back,
    )
    keeper.write(context.out)
    keep_training_input(context.work, context.out)
    return model


def run(context: StageContext) -> dict[str, float]:
    opened = Opened(context.config, context.inputs)
    model = train(context, context.variant, opened.corpus, opened.of_split)
    model.save(context.out / "model")
    return write_lists(context, opened, model, context.out / "model", context.config.recall.batch_size)
