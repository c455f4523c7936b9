"""Recallers that were trained here, opened again from their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softgrpo.common.records import Corpus
from softgrpo.config import ExperimentConfig
from softgrpo.recallers.by_text import Adapter, TextRecaller
from softgrpo.recallers.candidates import Scorer
from softgrpo.recallers.fitted_plugin import PluginRecaller
from softgrpo.recallers.plugins import plugin_names


def open_text(
    config: ExperimentConfig, embeddings: NDArray[np.float32], folder: Path, work: Path
) -> TextRecaller:  # fmt: skip
    """Opens `Text`.

    Args:
        config: The resolved configuration.
        embeddings: Of the items' texts.
        folder: Of its adapter; it has none where there is no such folder.
        work: A folder for what an adapter makes of the embeddings, for as long as the recaller is used.
    """
    model = TextRecaller(embeddings, config.text.history_items, config.text.half_life)
    return model.adapted(Adapter.load(folder), work / "adapted.safetensors") if folder.is_dir() else model


def open_stored(name: str, corpus: Corpus, folder: Path) -> tuple[Scorer, NDArray[np.bool_]]:
    """Opens any other recaller.

    Args:
        name: The recaller.
        corpus: That it was trained on.
        folder: Of its files.

    Returns:
        It, and (I,) items that its training data hold.

    Raises:
        StoreError: The folder holds no recaller, or a plug-in of another version than is installed.
    """
    if name in plugin_names():
        plugin = PluginRecaller.load(folder)
        return plugin, plugin.trained
    from softgrpo.recallers.recbole_adapter import load_recaller  # recbole only where it is used

    model = load_recaller(folder, corpus)
    return model, model.trained
