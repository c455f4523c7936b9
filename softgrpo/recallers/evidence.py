"""What a recaller was given to train on, kept beside it as it was read, so that a later stage can look for targets in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from softgrpo.common.columns import Columns

TRAINING_INPUT = "trained_on.parquet"


def keep_training_input(work: Path, folder: Path) -> None:
    """Copies the pairs in RecBole's own input file to `trained_on.parquet`.

    Args:
        work: The folder that the recaller was trained in, see `softgrpo.recallers.recbole_adapter.train_recaller`.
        folder: Where to put them.
    """
    given = pd.read_csv(work / "training" / "training.inter", sep="\t")
    keep_pairs(folder, given["user_id:token"].to_numpy(np.int32), given["item_id:token"].to_numpy(np.int32))


def keep_pairs(folder: Path, users: NDArray[np.int32], items: NDArray[np.int32]) -> None:
    """Writes the pairs that a recaller was trained on to `trained_on.parquet`.

    Args:
        folder: Where to put them.
        users: (n,) users.
        items: (n,) their items.
    """
    pairs = pd.DataFrame({Columns.User: users, Columns.Item: items})
    pairs.to_parquet(folder / TRAINING_INPUT, index=False)


def training_input(folder: Path) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Returns users and items of the pairs that a recaller was trained on, (n,) each.

    Args:
        folder: Where `keep_training_input` put them.
    """
    pairs = pd.read_parquet(folder / TRAINING_INPUT)
    return pairs[Columns.User].to_numpy(np.int32), pairs[Columns.Item].to_numpy(np.int32)
