"""Stage `recall` for a recaller of another library: fit the plug-in, store it, and write the lists of what was stored."""

from __future__ import annotations

from softgrpo.recallers.evidence import keep_pairs
from softgrpo.recallers.fitted_plugin import PluginRecaller, training_part
from softgrpo.recallers.plugins import plugin_identity
from softgrpo.stages.contract import StageContext
from softgrpo.stages.lists import write_lists
from softgrpo.stages.opened import Opened


def run(context: StageContext) -> dict[str, float]:
    config, name = context.config, context.variant
    opened = Opened(config, context.inputs)
    identity = plugin_identity(name)
    context.reporter.info(
        f"{name}: {identity['class']} of the package {identity['package']}, with {identity['libraries']}"
    )
    interactions = training_part(opened.corpus, opened.of_split)
    keep_pairs(context.out, interactions.users, interactions.items)
    folder = context.out / "model"
    PluginRecaller.fit(name, interactions, config.recall.settings.get(name, {}), config.seed).save(folder)
    model = PluginRecaller.load(folder)  # so that what is evaluated is what is stored
    return write_lists(context, opened, model, folder, config.recall.batch_size)
