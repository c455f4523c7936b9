"""Stage `recall` of a refit: one RecBole recaller of a finished run trained again, on everything up to now.

Nothing is held back to choose an epoch by: the settings name the number that was chosen, see `softgrpo.pipeline.refit`.
"""

from __future__ import annotations

from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.stages.contract import StageContext
from softgrpo.stages.recall import train


def run(context: StageContext) -> dict[str, float]:
    corpus, windows = load_corpus(context.inputs["snapshot"]), load_windows(context.inputs["snapshot"])
    train(context, context.variant, corpus, windows, hold_back=False).save(context.out / "model")
    return {"training_interactions": float(len(corpus.item))}
