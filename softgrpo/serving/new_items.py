"""Items that training never saw, from a file: the recaller `Text` embeds their texts and can recommend them; others cannot.

Legend: I items of the run, N new ones, d numbers of an embedding, B requests, t different texts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.columns import Columns
from softgrpo.common.digests import digest_json
from softgrpo.common.embeddings import create_embeddings, load_embeddings
from softgrpo.common.files import make_private, written_whole
from softgrpo.common.names import TEXT
from softgrpo.common.text import counted
from softgrpo.config import ExperimentConfig
from softgrpo.data.item_file import read_item_file
from softgrpo.errors import CandidateError, DataError
from softgrpo.policy.model_files import identify_weights
from softgrpo.recallers.candidates import Scorer
from softgrpo.stages.embed import different_texts, encoder_of

logger = logging.getLogger(__name__)

KEPT = ".new-texts"
"""Folder of kept embeddings, beside the stages of a run."""
SHOWN = 3
_ROWS = 4096
"""Rows that are copied at a time."""


@dataclass(frozen=True)
class NewItems:
    """Items of a file that the run does not know.

    Attributes:
        path: The file.
        items: N rows as of `Corpus.items`.
        texts: N texts, "" where an item has none.
        changed: Items of the run of which the file tells another title or other genres: what the run knows counts.
    """

    path: Path
    items: pd.DataFrame
    texts: list[str]
    changed: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def read(cls, path: Path, config: ExperimentConfig, known: pd.DataFrame) -> NewItems:
        """Reads a file of items.

        Args:
            path: See `read_item_file`.
            config: Of the run.
            known: The I items that the run, or its refit, knows.

        Raises:
            CandidateError: `Text` is not in the pool.
            DataError: The file is damaged or lacks a column, or none of its new items has a text.
        """
        check_pool(path, config.recall.recallers)
        file = read_item_file(path, config.data, config.text, known)
        place = pd.Index(known[Columns.Token], dtype=object).get_indexer(pd.Index(file.items[Columns.Token]))
        new = place < 0
        texts = [text for text, each in zip(file.texts, new, strict=True) if each]
        if texts and not any(texts):
            raise DataError(
                f"'{path}' with {counted(len(texts), 'item')} that the run does not know",
                f"The recaller {TEXT} knows a new item by its text, and none has any",
                f"Fill {', '.join(file.text_columns) or 'a column of titles'}",
                code="DATA-054",
            )
        items = file.items[new].reindex(columns=known.columns, fill_value="").reset_index(drop=True)
        return cls(path, items, texts, _changed(file.items[~new], known.iloc[place[~new]]))

    def notes(self, recommended: int) -> list[str]:
        """Returns one line for each thing that a reader must know.

        Args:
            recommended: How many of the recommended items are new ones.
        """
        lines = [
            f"{self.path} has {counted(len(self), 'new item')}: {TEXT} alone can recommend them, the other recallers were not "
            f"trained on them; {recommended:,} of the recommended items are new"
        ]
        if empty := self.texts.count(""):
            lines.append(f"{counted(empty, 'new item')} without a text, never recommended")
        if self.changed:
            names = ", ".join(self.changed[:SHOWN]) + (", ..." if len(self.changed) > SHOWN else "")
            lines.append(
                f"{self.path} has {counted(len(self.changed), 'item')} with another title or genres in the run, and those count: "
                f"{names}"
            )
        return lines

    def write_embeddings(self, config: ExperimentConfig, embed: Path, folder: Path) -> None:
        """Writes the embeddings of the run's items and, after them, of the new ones: what the stage `embed` would hold.

        Args:
            config: Of the run: its encoder embeds the new texts; those that it embedded before are kept beside the stages.
            embed: Folder of the run's stage `embed`.
            folder: Gets the file.

        Raises:
            PolicyError: The encoder cannot be loaded.
        """
        stored = load_embeddings(embed / EMBEDDINGS)
        made = create_embeddings(folder / EMBEDDINGS, len(stored) + len(self), stored.shape[1])
        for first in range(0, len(stored), _ROWS):
            made[first : first + _ROWS][: len(stored) - first] = stored[first : first + _ROWS]
        different, place = different_texts(self.texts)
        vectors = kept_embeddings(config, different, embed.parent / KEPT)
        told = place >= 0
        made[len(stored) :][told] = vectors[place[told]]


def check_pool(path: Path, recallers: Sequence[str]) -> None:
    """Checks that somebody can recommend new items.

    Raises:
        CandidateError: `Text` is not in the pool.
    """
    if TEXT not in recallers:
        raise CandidateError(
            f"items of {path} for a run with the recallers {', '.join(recallers)}",
            f"Only {TEXT} knows items that it was not trained on, by their texts",
            f"Train a run with {TEXT} in its pool, or `softgrpo refit` once the items have been taken",
            code="CANDIDATE-030",
        )


def _changed(told: pd.DataFrame, known: pd.DataFrame) -> tuple[str, ...]:
    """Returns the names of items whose title or genres differ between a file and a run, row by row."""
    columns = [name for name in (Columns.Title, Columns.Genres) if name in told]
    differs = told[columns].to_numpy(object) != known[columns].to_numpy(object)
    return tuple(known[Columns.Token].to_numpy(object)[differs.any(axis=1)])


def kept_embeddings(config: ExperimentConfig, texts: Sequence[str], folder: Path) -> NDArray[np.float32]:
    """Returns the embeddings of texts, (t, d); those that the folder does not keep are made and kept.

    Args:
        config: Of the run.
        texts: t different ones, none empty.
        folder: A file for each encoder.
    """
    identity = {"weights": identify_weights(config.text.model_name), "max_length": config.text.max_length}
    path = folder / f"{digest_json(identity)[:20]}.safetensors"
    names = [digest_json(text) for text in texts]
    kept = _read_kept(path)
    missing = [row for row, name in enumerate(names) if name not in kept]
    if missing:
        made = encoder_of(config).embed([texts[row] for row in missing])
        kept |= {names[row]: vector for row, vector in zip(missing, made, strict=True)}
        make_private(folder)
        with written_whole(path) as aside:
            digests = np.frombuffer(bytes.fromhex("".join(kept)), dtype=np.uint8).reshape(len(kept), -1)
            save_file({"digests": digests.copy(), "embeddings": np.stack(list(kept.values()))}, aside)
    return np.stack([kept[name] for name in names]) if names else np.empty((0, 0), np.float32)


def _read_kept(path: Path) -> dict[str, NDArray[np.float32]]:
    """Returns digest of a text -> embedding; nothing where nothing has been kept, or the file is damaged."""
    if not path.is_file():
        return {}
    try:
        stored = load_file(path)
    except SafetensorError as error:
        logger.warning("%s cannot be read (%s): the embeddings are made again", path, error)
        return {}
    return {bytes(digest).hex(): vector for digest, vector in zip(stored["digests"], stored["embeddings"], strict=True)}


@dataclass(frozen=True)
class KnowsNoNewItem:
    """A recaller of the run beside new items: it sees histories without them and gives them no score.

    Attributes:
        recaller: Knows I items.
        count: I.
        new: N.
    """

    recaller: Scorer
    count: int
    new: int

    @property
    def knows_users(self) -> bool:
        """See `RecBoleRecaller.knows_users`."""
        return bool(getattr(self.recaller, "knows_users", False))

    def score(self, users: NDArray[np.int64], histories: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """Returns scores (B, I + N), -inf for new items; see `softgrpo.recallers.candidates.Scorer`."""
        scores = self.recaller.score(users, without_new(histories, self.count))
        return torch.nn.functional.pad(scores, (0, self.new), value=-torch.inf)


def without_new(histories: Sequence[NDArray[np.int32]], count: int) -> list[NDArray[np.int32]]:
    """Returns histories without items from number I = `count` on."""
    return [history[history < count] for history in histories]
