"""What RecBole gets to see: an atomic file with the training interactions, and the data sets built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.utils import create_samplers, get_dataloader
from recbole.utils import ModelType, get_model

from softgrpo.common.columns import Columns
from softgrpo.common.records import Corpus, Windows
from softgrpo.errors import RecallerError
from softgrpo.recallers.recbole_compat import visible_devices

DATASET = "training"
PADDING = "[PAD]"
_REQUIRED = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
_HELD_BACK, _ALL = {"LS": "valid_only"}, {"RS": [1, 0, 0]}
_EVAL_BATCH_SIZE = 2**18  # scores at a time; RecBole's 4096 means two users per batch here


@dataclass(frozen=True)
class TrainingData:
    """RecBole's view of the training interactions. Internal ids start at 1; 0 is RecBole's padding.

    Attributes:
        config: RecBole's configuration.
        train: Data set that the model is built from and trained on.
        loader: Batches of `train`.
        valid: Batches of the held-back last items, None where there are none.
        item_ids: (I,) internal id of each item of the corpus, 0 where training knows nothing about it.
        user_ids: (U,) internal id of each user of the corpus, likewise.
    """

    config: Config
    train: Any
    loader: Any
    valid: Any
    item_ids: NDArray[np.int64]
    user_ids: NDArray[np.int64]


def training_interactions(corpus: Corpus, windows: Windows) -> pd.DataFrame:
    """Returns what recallers may train on: `corpus.sequence(u)[:windows.train_end[u]]` of every user.

    Columns `user`, `item` (ids) and `position` (place in the user's sequence).
    """
    position = np.arange(len(corpus.item)) - corpus.offsets[corpus.user]
    seen = position < windows.train_end[corpus.user]
    columns = {Columns.User: corpus.user[seen], Columns.Item: corpus.item[seen], Columns.Position: position[seen]}
    return pd.DataFrame(columns)


def write_atomic(interactions: pd.DataFrame, data_path: Path) -> Path:
    """Writes interactions as RecBole's `training/training.inter` below `data_path` and returns the file."""
    path = data_path / DATASET / f"{DATASET}.inter"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    table = interactions[[Columns.User, Columns.Item, Columns.Position]]
    table.to_csv(path, sep="\t", header=header, index=False)
    return path


def learns_by_gradient(name: str) -> bool:
    """Whether a model is trained in epochs (BPR, SASRec, ...) or computed at once (Pop, ItemKNN, EASE, ...)."""
    return bool(get_model(name).type != ModelType.TRADITIONAL)


def draws_negatives(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a model learns from pairs with drawn negatives: not where it is computed at once, or learns by cross-entropy."""
    model = get_model(name)
    by_cross_entropy = "input_type" not in vars(model) and settings.get("loss_type", "CE") == "CE"
    return not (model.type == ModelType.TRADITIONAL or (model.type == ModelType.SEQUENTIAL and by_cross_entropy))


def make_config(
    name: str, settings: Mapping[str, Any], seed: int, data_path: Path, cutoff: int, *, hold_back: bool = True
) -> Config:
    """Returns RecBole's configuration of one model, whose early stopping goes by NDCG at `cutoff` of what is held back."""
    own = dict(settings)
    chosen = {
        "eval_batch_size": _EVAL_BATCH_SIZE,
        **own,
        "gpu_id": visible_devices(own.get("use_gpu", True)),
        "seed": seed,
        "reproducibility": True,
        "show_progress": False,
        "data_path": str(data_path),
        "checkpoint_dir": str(data_path / "recbole"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": _HELD_BACK if hold_back else _ALL, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["NDCG"],
        "topk": [cutoff],
        "valid_metric": f"NDCG@{cutoff}",
    }
    if not draws_negatives(name, own):
        # Pop would count the drawn negatives as interactions; RecBole refuses them with cross-entropy
        chosen["train_neg_sample_args"] = None
    elif own.get("train_neg_sample_args") is None:
        chosen["train_neg_sample_args"] = dict(_REQUIRED["train_neg_sample_args"])
    return Config(model=name, dataset=DATASET, config_dict=chosen)


def open_training_data(config: Config, corpus: Corpus, targets_per_user: int | None) -> TrainingData:
    """Builds RecBole's data sets from the atomic file.

    Models that learn by gradient hold each user's last training item back for early stopping, unless the configuration gives them
    all; the others use all.

    Args:
        config: From `make_config`.
        corpus: Gives the numbers of users and items.
        targets_per_user: A sequential model trains on at most this many latest positions per user; None takes all.

    Raises:
        RecallerError: There is nothing to train on.
    """
    dataset = create_dataset(config)
    by_gradient = learns_by_gradient(config["model"])
    if by_gradient:
        train, valid, _ = parts = dataset.build()
        samplers = create_samplers(config, dataset, parts)
    else:
        dataset._change_feat_format()
        train = dataset.copy(dataset.inter_feat)
        valid, samplers = None, (None, None, None)
    if targets_per_user is not None and config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        train.inter_feat = train.inter_feat[_latest(train.inter_feat["user_id"].numpy(), targets_per_user)]
    if len(train) == 0:
        received = f"No user has enough training items for {config['model']}"
        rule = "A sequential recaller needs users with at least two training items"
        raise RecallerError(
            received,
            rule,
            "Take a general recaller (Pop, BPR, ItemKNN), or a larger split.recaller",
            code="RECALLER-006",
        )
    loader = get_dataloader(config, "train")(config, train, samplers[0], shuffle=config["shuffle"])
    held_back = None
    if valid is not None and len(valid):
        held_back = get_dataloader(config, "valid")(config, valid, samplers[1], shuffle=False)
    users, items = train.inter_feat["user_id"], train.inter_feat["item_id"]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        items = torch.cat([items, train.inter_feat["item_id_list"].flatten()])
    return TrainingData(
        config=config,
        train=train,
        loader=loader,
        valid=held_back,
        item_ids=_internal_ids(dataset.field2token_id["item_id"], items, corpus.num_items),
        user_ids=_internal_ids(dataset.field2token_id["user_id"], users, corpus.num_users),
    )


def _latest(users: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Returns the row numbers of each user's last `count` rows; rows of a user are in time order."""
    rows = pd.Series(np.arange(len(users))).groupby(users).tail(count)
    return np.sort(rows.to_numpy())


def _internal_ids(token_ids: Mapping[str, int], used: torch.Tensor, size: int) -> NDArray[np.int64]:
    """Returns the internal id of each corpus id, 0 for those that are not among `used`."""
    ids = np.zeros(size, dtype=np.int64)
    tokens = [(int(token), number) for token, number in token_ids.items() if token != PADDING]
    corpus_ids, internal = np.array(tokens, dtype=np.int64).T
    ids[corpus_ids] = np.where(np.isin(internal, used.numpy()), internal, 0)
    return ids
