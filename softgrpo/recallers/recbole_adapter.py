"""Trains, saves and opens RecBole recallers.

RecBole gets one file with the training part of each user's sequence and nothing else, so that no later interaction can
leak into a recaller.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.utils import get_model, init_seed

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus, Windows
from softgrpo.errors import RecallerError, StoreError
from softgrpo.recallers.candidates import RecallerModel
from softgrpo.recallers.recbole_compat import Printed, import_models, restore_aliases, shielded
from softgrpo.recallers.recbole_data import (
    TrainingData,
    make_config,
    open_training_data,
    training_interactions,
    write_atomic,
)
from softgrpo.recallers.recbole_model import RecBoleRecaller, Recipe
from softgrpo.recallers.recbole_training import fit
from softgrpo.recallers.registry import check_recallers, check_settings
from softgrpo.recallers.similarity import SimilarityRecaller
from softgrpo.reporting import Reporter

_CUTOFF = 10  # of the NDCG that early stopping goes by
_REFUSALS = (  # RecBole checks little itself: most wrong settings fail somewhere in it, or in torch, with one of these
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,  # NotImplementedError is one
    TypeError,
    ValueError,
    ZeroDivisionError,
)


def train_recaller(
    name: str,
    corpus: Corpus,
    windows: Windows,
    settings: Mapping[str, Any],
    *,
    seed: int,
    targets_per_user: int | None,
    work: Path,
    reporter: Reporter | None,
    hold_back: bool = True,
) -> RecallerModel:
    """Trains one RecBole model on `corpus.sequence(u)[:windows.train_end[u]]` of every user.

    Models that learn by gradient are stopped early, and their best epoch chosen, by NDCG@10 on each user's last training
    item, which they do not train on, unless nothing is held back. The same seed gives the same recaller on a CPU.

    Args:
        name: RecBole's name of a general or sequential model.
        corpus: All interactions.
        windows: Says where each user's training part ends.
        settings: RecBole settings, e.g. `{"epochs": 20}`.
        seed: Seed of initial weights, batches and negatives.
        targets_per_user: A sequential model trains on at most this many latest positions per user; None takes all.
        work: Folder for RecBole's input, `training/training.inter`.
        reporter: Gets `recall_loss` and `recall_valid_ndcg` per epoch.
        hold_back: Choose the best epoch as above; else all of the epochs in the settings are trained, on all of the items.

    Returns:
        The trained recaller.

    Raises:
        RecallerError: The name or a setting is wrong, there is nothing to train on, or training diverged.
    """
    name = check_recallers([name])[0]
    check_settings(name, settings)
    interactions = training_interactions(corpus, windows)
    if len(interactions) == 0:
        raise RecallerError(
            "No training interaction",
            "Recallers need some",
            "Raise split.recaller or lower split.record",
            code="RECALLER-004",
        )
    recipe = Recipe(name, dict(settings), seed, targets_per_user, interactions, hold_back)
    with shielded(), _refusals_of(recipe):
        data, model = _build(recipe, corpus, work)
        fit(model, data, reporter)
    if name == "Pop":
        _count_items(model, data)
    return _similarity(name, model, data) or RecBoleRecaller(model, data, recipe)


def load_recaller(folder: Path, corpus: Corpus) -> RecallerModel:
    """Opens what `RecallerModel.save` wrote.

    Args:
        folder: The folder.
        corpus: The corpus that the recaller was trained on.

    Returns:
        A recaller that gives the same scores.

    Raises:
        StoreError: The folder holds no recaller.
    """
    path = folder / "recaller.json"
    if not path.is_file():
        raise StoreError(f"{path} is missing", "A stored recaller has it", "Train the recaller again", code="STORE-023")
    if json.loads(path.read_text(encoding="utf-8"))["kind"] == "similarity":
        return SimilarityRecaller.load(folder)
    recipe = Recipe.load(folder)
    with shielded(), tempfile.TemporaryDirectory() as work:
        data, model = _build(recipe, corpus, Path(work))
    recaller = RecBoleRecaller(model, data, recipe)
    recaller.restore(folder)
    return recaller


def _build(recipe: Recipe, corpus: Corpus, work: Path) -> tuple[TrainingData, Any]:
    """Returns RecBole's data sets and an untrained model (Pop and the like: computed already)."""
    restore_aliases()
    import_models()
    init_seed(recipe.seed, True)
    write_atomic(recipe.interactions, work)
    cutoff = min(_CUTOFF, recipe.interactions[Columns.Item].nunique())
    config = make_config(recipe.name, recipe.settings, recipe.seed, work, cutoff, hold_back=recipe.hold_back)
    data = open_training_data(config, corpus, recipe.targets_per_user)
    with redirect_stdout(Printed()):
        model = get_model(recipe.name)(data.config, data.train).to(data.config["device"])
    if recipe.name == "DGCF":
        # for the distance of its factors it draws so many different users and items; with few batches there are not as many
        model.cor_batch_size = min(model.cor_batch_size, model.n_users, model.n_items)
    return data, model


@contextmanager
def _refusals_of(recipe: Recipe) -> Iterator[None]:
    """Turns the errors with which RecBole refuses settings or data into ours."""
    try:
        yield
    except _REFUSALS as error:
        received = f"RecBole refuses to train {recipe.name}: {type(error).__name__}: {error}"
        rule = f"Its settings were {dict(recipe.settings)}, its training items {len(recipe.interactions)}"
        raise RecallerError(
            received, rule, "Correct recall.settings, or take another recaller", code="RECALLER-005"
        ) from error


def _count_items(model: Any, data: TrainingData) -> None:
    """Gives Pop the true counts: RecBole's own (`cnt[item] = cnt[item] + 1`) add 1 per batch that an item occurs in."""
    counts = torch.bincount(data.train.inter_feat["item_id"], minlength=model.n_items)
    model.item_cnt = counts[:, None].to(model.item_cnt)
    model.max_cnt = model.item_cnt.max(dim=0).values


def _similarity(name: str, model: Any, data: TrainingData) -> SimilarityRecaller | None:
    """Returns an item-based model as its matrix between items of the corpus, None for all other models."""
    if name == "ItemKNN" and model.method == "item":
        matrix = model.w
    elif name in ("EASE", "SLIMElastic", "ADMMSLIM"):
        matrix = model.item_similarity
    else:
        return None
    ids = data.item_ids  # 0, RecBole's padding, stands for unknown items; its row and column are empty
    full = sp.csr_matrix(matrix, dtype=np.float32) if sp.issparse(matrix) else np.asarray(matrix, dtype=np.float32)
    offset = None
    if name == "ADMMSLIM" and model.center_columns:
        means = model.item_means.astype(np.float32)
        offset = (means - means @ full)[ids]
    return SimilarityRecaller(name, full[ids][:, ids], offset, ids > 0)
