"""What a trained RecBole model holds about a user, as a vector: a factor, or the state that it reads from the history.

Legend: B windows, L length of RecBole's sequences, d components of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction
from recbole.utils import ModelType

from softgrpo.recallers.recbole_compat import shielded
from softgrpo.recallers.recbole_model import RecBoleRecaller

Read = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model, users (B,), items (B, L) with padding behind the sequence, lengths (B,)) -> vectors (B, d); ids are RecBole's."""


def _state(model: Any, users: torch.Tensor, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    state: torch.Tensor = model.forward(items, lengths)
    return state


def _factor(model: Any, users: torch.Tensor, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    factor: torch.Tensor = model.user_embedding.weight[users]
    return factor


def _node(model: Any, users: torch.Tensor, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    if model.restore_user_e is None:  # a graph is worked out when a model scores for the first time
        model.full_sort_predict(Interaction({"user_id": users[:1]}))
    node: torch.Tensor = model.restore_user_e[users]
    return node


def _factor_and_last(model: Any, users: torch.Tensor, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    last = items.gather(1, lengths[:, None] - 1)[:, 0]
    return torch.cat([model.UI_emb.weight[users], model.LI_emb.weight[last]], dim=1)


_READ: Mapping[str, Read] = {
    **dict.fromkeys(("SASRec", "GRU4Rec", "NARM", "STAMP", "SRGNN", "GCSAN", "LightSANs"), _state),
    **dict.fromkeys(("BPR", "ENMF", "LINE"), _factor),
    **dict.fromkeys(("LightGCN", "NGCF", "DGCF", "SGL", "SpectralCF"), _node),
    "FPMC": _factor_and_last,
}


def has_user_vector(name: str) -> bool:
    """Tells whether a recaller's vector of a user can be read.

    Args:
        name: RecBole's name of a model, or that of any other recaller.
    """
    return name in _READ


@torch.no_grad()
def user_vectors(
    recaller: RecBoleRecaller, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]
) -> NDArray[np.float32]:
    """Returns what a recaller holds about some users, (B, d); NaN in the row of one about whom it knows nothing.

    A sequential model reads the history and nothing else; FPMC has a trained factor beside the factor of the last item. All
    others give the trained vector, which the history does not change.

    Args:
        recaller: One that `has_user_vector`.
        users: (B,) user ids of the corpus, -1 for a user that is not in it.
        histories: B arrays of item ids of the corpus, oldest first: everything before the window.
    """
    data = recaller.data
    internal = recaller.internal_users(users)
    sequential = data.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    read = [ids[ids > 0] for ids in (data.item_ids[history] for history in histories)]
    rows = np.flatnonzero([len(ids) for ids in read] if sequential else internal)
    items, lengths = _padded([read[row] for row in rows], data.config["MAX_ITEM_LIST_LENGTH"] if sequential else 0)
    device = data.config["device"]
    with shielded():
        # one user more, so that the width is known where there is none
        inputs = (np.append(internal[rows], 0), np.pad(items, ((0, 1), (0, 0))), np.append(lengths, 1))
        found = _READ[recaller.name](recaller.model, *(torch.from_numpy(each).to(device) for each in inputs))
    vectors = np.full((len(users), found.shape[1]), np.nan, dtype=np.float32)
    vectors[rows] = found[:-1].float().cpu().numpy()
    return vectors


def _padded(known: Sequence[NDArray[np.int64]], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the latest items of each sequence, (B, L) with 0 behind the last, and how many they are, (B,)."""
    items = np.zeros((len(known), length), dtype=np.int64)
    lengths = np.array([min(len(ids), length) for ids in known], dtype=np.int64)
    for row, ids in enumerate(known):
        items[row, : lengths[row]] = ids[len(ids) - lengths[row] :]
    return items, lengths
