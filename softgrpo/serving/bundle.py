"""A method of a run with all that it needs to answer requests, as one folder that needs neither the run nor its recallers.

    bundle.json              method, configuration, merge, static mixture
    items.parquet            token, title and genres of each item
    reference.safetensors    what numbers and words are relative to
    common.safetensors       the lists of requests about which no recaller knows anything
    embeddings.safetensors   of the items' texts, where the run has them
    gate/, ranker/, policy/  the method, where it is a gate, the item ranker or a language model

Nothing in it is a pickle. Legend: B requests, M recallers, K length.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from softgrpo.baselines.gates import RANKER, Gate
from softgrpo.baselines.item_ranker import ItemRanker, load_ranker
from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.artifacts import GATE as POLICY_GATE
from softgrpo.common.columns import Columns
from softgrpo.common.embeddings import load_embeddings
from softgrpo.config import ExperimentConfig, FusionConfig
from softgrpo.errors import PolicyError
from softgrpo.policy.card import check_numbers, load_card
from softgrpo.policy.catalogue import Catalogue
from softgrpo.policy.model import merge_adapters, save_policy
from softgrpo.policy.reference import Reference
from softgrpo.serving.answers import Answerer, Answers, common_lists_of, describer_of
from softgrpo.serving.choice import POLICIES
from softgrpo.serving.current import Current
from softgrpo.serving.methods import (
    SINGLE,
    STATIC,
    FixedWeights,
    GateWeigher,
    PolicyWeigher,
    Weigher,
    fixed_weights,
    open_policy,
    open_weigher,
)
from softgrpo.serving.pure_models import load_policy
from softgrpo.serving.request_frame import REQUEST, FrameReader
from softgrpo.serving.requests import Describer, Requests
from softgrpo.stages.inputs import Prepared

FORMAT = 1
CARD, ITEMS, REFERENCE, COMMON = "bundle.json", "items.parquet", "reference.safetensors", "common.safetensors"
GATE, POLICY = "gate", "policy"
_UNNEEDED = ("log_prior.safetensors", "merged", "curves.json", "metrics.json")


@dataclass(frozen=True)
class Bundle:
    """A method that answers tables of candidates.

    Attributes:
        answerer: The method.
        read: Reads the tables.
        k: Usual length of a merged list, `fusion.k`.
    """

    answerer: Answerer
    read: FrameReader
    k: int

    def __call__(self, frame: pd.DataFrame, k: int | None = None) -> pd.DataFrame:
        """Returns a row for each request and rank.

        Args:
            frame: See `softgrpo.serving.request_frame`.
            k: K; None takes the run's.

        Returns:
            `request`, `rank` from 1, `item`, `title`, `score`, `from_<recaller>`, which sum to the score, `weight_<recaller>`
            (both NaN where a ranker ordered the items), `method`, and `reason`: why the method is another than the bundle's, ""
            where it is not.

        Raises:
            CandidateError: The table does not hold what it must.
            ConfigError: K is deeper than the lists.
        """
        asked = self.read(frame)
        answerer = self._knowing(asked.requests)
        answers = answerer(asked.requests, self.k if k is None else k)
        return _as_table(asked.names, asked.requests.corpus.items, answers, answerer.recallers)

    def _knowing(self, requests: Requests) -> Answerer:
        """Returns the answerer with entries for the items that only these requests know: never seen, without a text."""
        describe, items = self.answerer.describe, requests.corpus.items
        new = len(items) - len(describe.reference.popularity)
        if not new:
            return self.answerer
        popularity = np.append(describe.reference.popularity, np.zeros(new, dtype=np.int64))
        embeddings = describe.embeddings
        if embeddings is not None:
            embeddings = np.concatenate([embeddings, np.zeros((new, embeddings.shape[1]), dtype=np.float32)])
        added = Catalogue.of(items.iloc[-new:], describe.catalogue.seconds, titles=_titles(self.answerer.weigher))
        names, genres = [*describe.catalogue.names, *added.names], [*describe.catalogue.genres, *added.genres]
        wider = replace(
            describe,
            reference=replace(describe.reference, popularity=popularity),
            catalogue=replace(describe.catalogue, names=names, genres=genres),
            embeddings=embeddings,
        )
        return replace(self.answerer, describe=wider)


def _titles(weigher: Weigher) -> bool:
    """Tells whether prompts call items by their titles; only language models read prompts."""
    return not isinstance(weigher, PolicyWeigher) or weigher.config.told_prompt.titles


def _as_table(
    names: tuple[str, ...], items: pd.DataFrame, answers: Answers, recallers: tuple[str, ...]
) -> pd.DataFrame:  # fmt: skip
    row, place = np.nonzero(answers.items >= 0)
    item = answers.items[row, place]
    shares: NDArray[np.float64] = answers.shares[row, place]
    table: dict[str, Any] = {
        REQUEST: np.asarray(names, dtype=object)[row],
        "rank": place + 1,
        Columns.Item: items[Columns.Token].to_numpy(object)[item],
        Columns.Title: items[Columns.Title].to_numpy(object)[item],
        Columns.Score: answers.scores[row, place],
    }
    table |= {f"from_{name}": shares[:, index] for index, name in enumerate(recallers)}
    table |= {f"weight_{name}": answers.weights[row, index] for index, name in enumerate(recallers)}
    return pd.DataFrame(table | {"method": answers.method[row], "reason": answers.reason[row]})


def save_bundle(folder: Path, prepared: Prepared, folders: Mapping[str, Path], key: str, *, copy: bool = True) -> None:
    """Writes a method of a run as a bundle.

    Args:
        folder: A new or empty folder.
        prepared: Output of the stages `split` and `data`.
        folders: Of the stages that the run has; of `embed` where its numbers compare texts.
        key: The method, as in the table.
        copy: Put a language model into the bundle; else it stays where it is, see `load_bundle`. One with adapters is always put
            there, merged, because a bundle has no base model.

    Raises:
        PolicyError: The run stored no such method, or its numbers need trained recallers.
    """
    config = prepared.config
    if config.told_features.user_vector:
        raise PolicyError(
            "a run with features.user_vector = true",
            "A bundle has no recallers, and so no vectors of users",
            "Train with --features.user_vector false",
            code="POLICY-049",
        )
    current = Current.of(prepared, folders)
    describe = describer_of(prepared, folders, current)
    folder.mkdir(parents=True, exist_ok=True)
    weights = _save_method(folder, prepared, folders, key, describe, copy=copy)
    describe.reference.save(folder / REFERENCE)
    current.corpus.items.to_parquet(folder / ITEMS, index=False)
    items, scores = common_lists_of(prepared, current)
    save_file({"items": np.ascontiguousarray(items), "scores": np.ascontiguousarray(scores)}, folder / COMMON)
    if describe.embeddings is not None:
        shutil.copy2(folders["embed"] / EMBEDDINGS, folder / EMBEDDINGS)
    card = {
        "format": FORMAT,
        "method": key,
        "config": config.model_dump(mode="json"),
        "fusion": prepared.fusion.model_dump(mode="json"),
        "platt": None if prepared.platt is None else prepared.platt.tolist(),
        "static": fixed_weights(prepared)[STATIC].tolist(),
        "weights": weights,
        "fields": [name for name in prepared.corpus.users if name != Columns.Token],
        "depth": prepared.stored_lists.depth,
    }
    (folder / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")


def _save_method(
    folder: Path, prepared: Prepared, folders: Mapping[str, Path], key: str, describe: Describer, *, copy: bool
) -> list[float] | None:
    """Writes what gives the weights; returns them where they are the same for everybody."""
    stored = folders.get(POLICIES.get(key, ""))
    if key == RANKER and "gates" in folders:
        load_ranker(folders["gates"]).save(folder / RANKER)
        return None
    if stored is None:
        weigher = open_weigher(key, prepared, dict(folders), describe.reference.names)
        if isinstance(weigher, FixedWeights):
            fixed: list[float] = weigher.weights.tolist()
            return fixed
        assert isinstance(weigher, GateWeigher) and isinstance(weigher.gate, Gate)
        weigher.gate.save(folder / GATE)
        return None
    check_numbers(load_card(stored), describe.reference.names)
    if load_card(stored).adapter != "none":
        save_policy(folder / POLICY, merge_adapters(load_policy(stored)))
        if (stored / POLICY_GATE).is_dir():
            shutil.copytree(stored / POLICY_GATE, folder / POLICY / POLICY_GATE)
    elif copy:
        shutil.copytree(stored, folder / POLICY, ignore=shutil.ignore_patterns(*_UNNEEDED))
    return None


def read_card(folder: Path) -> dict[str, Any]:
    """Returns what `bundle.json` says."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def load_bundle(folder: Path, policy: Path | None = None) -> Bundle:
    """Opens what `save_bundle` wrote.

    Args:
        folder: The bundle.
        policy: Where its language model lies unless it is in the bundle.

    Raises:
        PolicyError: It is of another version, or its policy cannot be loaded.
    """
    card = read_card(folder)
    if card["format"] != FORMAT:
        raise PolicyError(
            f"a bundle of format {card['format']}",
            f"This version of softgrpo reads format {FORMAT}",
            "Serve it with the version that its requirements name, one process for each version",
            code="POLICY-050",
        )
    config = ExperimentConfig.model_validate(card["config"])
    reference, items = Reference.load(folder / REFERENCE), pd.read_parquet(folder / ITEMS)
    embeddings = load_embeddings(folder / EMBEDDINGS) if (folder / EMBEDDINGS).is_file() else None
    catalogue = Catalogue.of(items, reference.seconds, titles=config.told_prompt.titles)
    common = load_file(folder / COMMON)
    answerer = Answerer(
        key=card["method"],
        weigher=_load_method(folder, policy, card, config, reference.names),
        describe=Describer(reference, catalogue, config.told_features, embeddings),
        static=np.array(card["static"]),
        common=(common["items"], common["scores"]),
        fusion=FusionConfig.model_validate(card["fusion"]),
        platt=None if card["platt"] is None else torch.tensor(card["platt"], dtype=torch.float64),
        ranker=ItemRanker.load(folder / RANKER) if card["method"] == RANKER else None,
    )
    reader = FrameReader(items, tuple(card["fields"]), reference.recallers, card["depth"])
    return Bundle(answerer, reader, config.fusion.k)


def _load_method(
    folder: Path, policy: Path | None, card: Mapping[str, Any], config: ExperimentConfig, names: tuple[str, ...]
) -> Weigher:
    if card["weights"] is not None or card["method"] == RANKER:  # of a ranker the static mixture, where it cannot order
        return FixedWeights(np.array(card["weights"] or card["static"]))
    if (folder / GATE).is_dir():
        return GateWeigher(Gate.load(folder / GATE))
    place = folder / POLICY if (folder / POLICY).is_dir() or policy is None else policy
    return open_policy(place, config, names, largest=card["method"].endswith(SINGLE))
