"""Scores of a trained RecBole model for any history.

Legend: B windows, I items of the corpus, R items in RecBole (with its padding item).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender, AutoEncoderMixin
from recbole.utils import ModelType
from safetensors.torch import load_file, save_file

from softgrpo.errors import RecallerError
from softgrpo.recallers.recbole_compat import shielded
from softgrpo.recallers.recbole_data import TrainingData
from softgrpo.recallers.recbole_training import other_tensors
from softgrpo.recallers.similarity import multi_hot

_USER_FREE = ("Pop",)
_PAIRS = 2**18
_OTHER = "other:"


@dataclass(frozen=True)
class Recipe:
    """All that decides a recaller.

    Attributes:
        name: RecBole's name of the model.
        settings: RecBole settings.
        seed: Seed of everything random.
        targets_per_user: See `train_recaller`.
        interactions: See `training_interactions`.
        hold_back: See `train_recaller`.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int
    targets_per_user: int | None
    interactions: pd.DataFrame
    hold_back: bool = True

    def save(self, folder: Path) -> None:
        """Writes `recaller.json` and `interactions.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "kind": "recbole",
            "name": self.name,
            "settings": dict(self.settings),
            "seed": self.seed,
            "targets_per_user": self.targets_per_user,
            **({} if self.hold_back else {"hold_back": False}),
        }
        (folder / "recaller.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
        columns = {
            str(name): torch.from_numpy(self.interactions[name].to_numpy(np.int64)) for name in self.interactions
        }
        save_file(columns, folder / "interactions.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Recipe:
        """Reads what `save` wrote."""
        description = json.loads((folder / "recaller.json").read_text(encoding="utf-8"))
        del description["kind"]
        columns = load_file(folder / "interactions.safetensors")
        table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
        return cls(**description, interactions=table)


@dataclass(frozen=True)
class RecBoleRecaller:
    """A trained RecBole model.

    What it looks at decides what it needs to know about a user, and an empty row (-inf) is the answer where that is missing:
    sequential models and auto-encoders read the full history before the window and need one known item in it; models
    with user embeddings use them as trained and need the user in the training data; Pop needs nothing. Sequential models
    that have user embeddings too give users of the corpus without training rows the embedding of the padding user, and nothing
    to a user that is not in the corpus.

    Attributes:
        model: The model, in evaluation mode.
        data: RecBole's view of what it was trained on.
        recipe: How it was made.
    """

    model: Any
    data: TrainingData
    recipe: Recipe

    @property
    def name(self) -> str:
        """RecBole's name of the model."""
        return self.recipe.name

    @property
    def trained(self) -> NDArray[np.bool_]:
        """(I,) items that the training data hold."""
        return self.data.item_ids > 0

    @property
    def knows_users(self) -> bool:
        """Whether the model has something of each user that it was trained on, such as an embedding."""
        return any(
            isinstance(module, torch.nn.Embedding)
            and module.num_embeddings == self.data.train.user_num
            and ("user" in name.lower() or name == "UI_emb")
            for name, module in self.model.named_modules()
        )

    def internal_users(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns RecBole's ids (B,) of users, 0 for those that it was not trained on and for -1, who is not in the corpus."""
        return np.where(users >= 0, self.data.user_ids[users], 0)

    @torch.no_grad()
    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """See `RecallerModel.score`; the tensor lies on the model's device."""
        internal = self.internal_users(users)
        sequential = self.data.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        known: list[NDArray[np.int64]] = []
        if reads_history := sequential or isinstance(self.model, AutoEncoderMixin):
            known = [ids[ids > 0] for ids in (self.data.item_ids[history] for history in histories)]
            able = np.array([len(ids) for ids in known], dtype=np.int64) > 0
            rows = np.flatnonzero(able & (users >= 0) if self.knows_users else able)
        else:
            rows = np.arange(len(users)) if self.name in _USER_FREE else np.flatnonzero(internal)
        if len(rows) == 0:
            return torch.full((len(users), len(self.data.item_ids)), -torch.inf, device=self.data.config["device"])
        with shielded():
            torch.manual_seed(self.recipe.seed)  # a few models draw numbers while they score
            if reads_history:
                read = self._from_sequences if sequential else self._from_sets
                found = read(internal[rows], [known[row] for row in rows])
            else:
                found = self._from_users(internal[rows])
        values = self._of_the_corpus(found.float())
        if len(rows) == len(users):
            return values
        scores = torch.full((len(users), values.shape[1]), -torch.inf, device=values.device)
        scores[torch.from_numpy(rows).to(values.device)] = values
        return scores

    def _of_the_corpus(self, values: torch.Tensor) -> torch.Tensor:
        """Returns scores (B, I) from scores (B, R) of RecBole's items, -inf for items that the model was not trained on."""
        places = torch.from_numpy(self.data.item_ids).to(values.device)
        found, strange = values.index_select(1, places), torch.nonzero(places == 0)[:, 0]
        if len(strange):
            found.index_fill_(1, strange, 0.0)
        if not torch.isfinite(torch.stack(found.aminmax())).all():
            received = f"{self.name} gave a score that is not a finite number"
            raise RecallerError(
                received,
                "Scores are finite",
                "Lower its learning_rate, or train it for fewer epochs",
                code="RECALLER-007",
            )
        return found.index_fill_(1, strange, -torch.inf) if len(strange) else found

    def _from_sequences(self, users: NDArray[np.int64], known: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Returns scores (B, R) from the latest items of each history."""
        length = int(self.data.config["MAX_ITEM_LIST_LENGTH"])
        padded = np.zeros((len(known), length), dtype=np.int64)  # RecBole pads behind the sequence
        lengths = np.array([min(len(ids), length) for ids in known])
        for row, ids in enumerate(known):
            padded[row, : lengths[row]] = ids[-length:]
        return self._predict({"user_id": users, "item_id_list": padded, "item_length": lengths})

    def _from_sets(self, users: NDArray[np.int64], known: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Returns scores (B, R) of an auto-encoder that reads each history as a set."""
        matrix = torch.from_numpy(multi_hot(known, self.model.n_items).toarray())
        self.model.get_rating_matrix = lambda user: matrix.to(self.data.config["device"])
        try:
            return self._predict({"user_id": users})
        finally:
            del self.model.get_rating_matrix  # the class's own method again, which reads training histories

    def _from_users(self, users: NDArray[np.int64]) -> torch.Tensor:
        """Returns scores (B, R) from what was learnt about each user; a user is scored once per batch."""
        once, inverse = np.unique(users, return_inverse=True)
        if type(self.model).full_sort_predict is AbstractRecommender.full_sort_predict:
            scores = self._predict_pairs(once)
        else:
            scores = self._predict({"user_id": once})
        in_order = np.array_equal(once, users)
        return scores if in_order else scores[torch.from_numpy(inverse).to(scores.device)]

    def _predict(self, fields: dict[str, NDArray[np.int64]]) -> torch.Tensor:
        batch = Interaction({name: torch.from_numpy(values) for name, values in fields.items()})
        scores = self.model.full_sort_predict(batch.to(self.data.config["device"]))
        return torch.as_tensor(scores, device=self.data.config["device"]).view(len(batch), -1)

    def _predict_pairs(self, users: NDArray[np.int64]) -> torch.Tensor:
        """Returns scores (B, R) of a model that can only score (user, item) pairs, such as NeuMF."""
        device, items = self.data.config["device"], torch.arange(self.model.n_items)
        rows = []
        for chunk in torch.split(torch.from_numpy(users), max(1, _PAIRS // len(items))):
            pairs = {"user_id": chunk.repeat_interleave(len(items)), "item_id": items.repeat(len(chunk))}
            rows.append(self.model.predict(Interaction(pairs).to(device)).view(len(chunk), -1))
        return torch.cat(rows)

    def save(self, folder: Path) -> None:
        """See `RecallerModel.save`."""
        self.recipe.save(folder)
        tensors = {name: value for name, value in self.model.state_dict().items() if isinstance(value, torch.Tensor)}
        others = {_OTHER + name: value for name, value in other_tensors(self.model).items() if value is not None}
        # cloned, because safetensors refuses tensors that share memory
        copies = {name: value.detach().cpu().contiguous().clone() for name, value in (tensors | others).items()}
        save_file(copies, folder / "model.safetensors")

    def restore(self, folder: Path) -> None:
        """Gives the model the weights that `save` wrote."""
        tensors = load_file(folder / "model.safetensors", device=str(self.data.config["device"]))
        others = {name.removeprefix(_OTHER): value for name, value in tensors.items() if name.startswith(_OTHER)}
        self.model.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(_OTHER)})
        self.model.load_other_parameter(others)
        self.model.eval()
