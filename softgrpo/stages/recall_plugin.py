"""Stage `recall` for a recaller of another library: fit the plug-in, store it, and write the lists of what was stored."""

from __future__ import annotations

from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.evidence import keep_pairs
from softgrpo.recallers.fitted_plugin import PluginRecaller, training_part
from softgrpo.recallers.plugins import plugin_identity
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists


def run(context: StageContext) -> dict[str, float]:
    config, name = context.config, context.variant
    corpus, windows = load_corpus(context.inputs["split"]), load_windows(context.inputs["split"])
    identity = plugin_identity(name)
    context.reporter.info(
        f"{name}: {identity['class']} of the package {identity['package']}, with {identity['libraries']}"
    )
    interactions = training_part(corpus, windows)
    keep_pairs(context.out, interactions.users, interactions.items)
    PluginRecaller.fit(name, interactions, config.recall.settings.get(name, {}), config.seed).save(
        context.out / "model"
    )
    model = PluginRecaller.load(context.out / "model")  # so that what is evaluated is what is stored
    return write_lists(context, model, corpus, windows, config.recall.batch_size)
