"""Stage `recall` of a refit, for a recaller of another library: the plug-in fitted again, on everything up to now."""

from __future__ import annotations

from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.fitted_plugin import PluginRecaller, training_part
from softgrpo.stages.contract import StageContext


def run(context: StageContext) -> dict[str, float]:
    config, name = context.config, context.variant
    interactions = training_part(load_corpus(context.inputs["snapshot"]), load_windows(context.inputs["snapshot"]))
    settings = config.recall.settings.get(name, {})
    PluginRecaller.fit(name, interactions, settings, config.seed).save(context.out / "model")
    return {"training_interactions": float(len(interactions.items))}
