"""A run asked about new requests: weights of a method, the merged list, and what each recaller gave to it.

Legend: B requests, M recallers, D depth, K length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softgrpo.baselines.gates import RANKER
from softgrpo.baselines.item_numbers import ItemKnowledge, ListedWindows
from softgrpo.baselines.item_ranker import ItemRanker, Ranking, load_ranker
from softgrpo.common.artifacts import EMBEDDINGS
from softgrpo.common.embeddings import load_embeddings
from softgrpo.common.records import Part
from softgrpo.config import FusionConfig
from softgrpo.policy.blocks.block import UserVectors
from softgrpo.policy.catalogue import Catalogue
from softgrpo.policy.reference import Reference
from softgrpo.ranking.bounds import within_bounds
from softgrpo.recallers.candidates import NO_ITEM
from softgrpo.serving.choice import check_k
from softgrpo.serving.current import Current
from softgrpo.serving.merging import ItemsAndScores, common_lists, merge_lists, without
from softgrpo.serving.methods import STATIC, Weigher, fixed_weights, open_weigher
from softgrpo.serving.requests import Describer, Requests
from softgrpo.stages.inputs import Prepared

NOTHING_KNOWN = "no recaller has a list: the recallers' common lists"
OTHERS_ONLY = "all weight is on recallers without a list: equal weights for the others"


@dataclass(frozen=True)
class Answers:
    """What B requests get.

    Attributes:
        items: (B, K) item ids, best first, -1 behind the end.
        scores: (B, K) of the items: the sum of their shares, or what a ranker says.
        shares: (B, K, M) what each recaller gave to each item; see `Recommended`. NaN where a ranker ordered the items.
        weights: (B, M); NaN where a ranker ordered the items.
        method: (B,) key of the method that the weights are of: the one that was asked, `static`, or `uniform`.
        reason: (B,) why it is another than the one that was asked, "" where it is not.
        empty: (B, M) recallers without a list.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float64]
    shares: NDArray[np.float64]
    weights: NDArray[np.float64]
    method: NDArray[Any]
    reason: NDArray[Any]
    empty: NDArray[np.bool_]


@dataclass(frozen=True)
class Answerer:
    """Answers requests with one method of a run.

    Attributes:
        key: The method, as in the table.
        weigher: The method; of a ranker the static mixture, for the requests that the ranker cannot order.
        describe: Makes the numbers and prompts that it reads.
        static: (M,) weights for requests about which no recaller knows anything.
        common: The lists (M, D) of such requests.
        fusion: The run's merge.
        platt: (M, 2) parameters of its normalisation, None where it needs none.
        ranker: The method, where it orders items; None where it weighs recallers.
    """

    key: str
    weigher: Weigher
    describe: Describer
    static: NDArray[np.float64]
    common: ItemsAndScores
    fusion: FusionConfig
    platt: torch.Tensor | None
    ranker: ItemRanker | None = None

    @property
    def recallers(self) -> tuple[str, ...]:
        """The M names."""
        return self.describe.reference.recallers

    def __call__(self, requests: Requests, k: int, vectors: UserVectors | None = None) -> Answers:
        """Returns the answers to requests.

        Args:
            requests: B of them, with their lists.
            k: K, at most the depth of the lists.
            vectors: Reads the recallers' user vectors of these requests, where the run has that block.

        Raises:
            ConfigError: K is deeper than the lists.
            PolicyError: The lists or numbers are not those that the run knows.
        """
        check_k(k, requests.lists.depth)
        described = self.describe(requests, vectors)
        weights = self.weigher(described)
        lists = requests.lists
        empty = lists.items[:, :, 0] == NO_ITEM  # (B, M)
        items, scores = lists.items.copy(), lists.scores.copy()
        method = np.full(len(requests), self.key, dtype=object)
        reason = np.full(len(requests), "", dtype=object)
        unknown = empty.all(1)
        for request in np.flatnonzero(unknown):
            width = min(lists.depth, self.common[0].shape[1])
            own = without(self.common, requests.corpus.sequence(int(request)))
            items[request, :, :width], scores[request, :, :width] = own[0][:, :width], own[1][:, :width]
        weights = np.where(unknown[:, None], self.static, weights)
        method[unknown], reason[unknown] = STATIC, NOTHING_KNOWN
        without_list = items[:, :, 0] == NO_ITEM
        lost = ~unknown & ~(np.where(without_list, 0.0, weights).sum(1) > 0)
        weights = np.where(lost[:, None], ~without_list, weights)
        method[lost], reason[lost] = "uniform", OTHERS_ONLY
        weights = within_bounds(torch.from_numpy(weights), self.fusion).numpy()  # those that are merged are told
        merged, shares = merge_lists(items, scores, weights, self.fusion, self.platt, k)
        scores, weights = shares.sum(2), weights / weights.sum(1, keepdims=True)
        if self.ranker is not None:
            ranking, own = self._order(self.ranker, requests), ~unknown
            merged[own], scores[own] = ranking.items[own, :k], ranking.scores[own, :k]
            shares[own], weights[own], method[own], reason[own] = np.nan, np.nan, self.key, ""
        return Answers(merged, scores, shares, weights, method, reason, empty)

    def _order(self, ranker: ItemRanker, requests: Requests) -> Ranking:
        """Returns the items of B requests in the ranker's order."""
        listed = ListedWindows.of(requests.lists, requests.corpus, requests.windows, np.arange(len(requests)))
        return ranker.rank(listed, ItemKnowledge(self.describe.reference.popularity, self.describe.embeddings))


def describer_of(prepared: Prepared, folders: Mapping[str, Path], current: Current | None = None) -> Describer:
    """Returns what describes requests as a run describes its windows.

    Args:
        prepared: Output of the stages `split` and `data`.
        folders: Of the stages that the run has; of `embed` where its numbers compare texts.
        current: The users and items that are asked about; None looks them up.
    """
    config, current = prepared.config, current or Current.of(prepared, folders)
    own = Reference.of(prepared.corpus, prepared.windows, prepared.stored_lists, prepared.numbers, config.fusion.k)
    reference = replace(own, popularity=current.popularity)
    catalogue = Catalogue.of(current.corpus.items, reference.seconds, titles=config.told_prompt.titles)
    embeddings = load_embeddings(folders["embed"] / EMBEDDINGS) if "embed" in folders else None
    return Describer(reference, catalogue, config.told_features, embeddings)


def common_lists_of(prepared: Prepared, current: Current) -> ItemsAndScores:
    """Returns the common lists of a run's recallers, see `common_lists`, with the items' numbers of now."""
    items, scores = common_lists(prepared.stored_lists, prepared.windows.of(Part.TEST))
    return current.listed(items), scores


def open_answerer(
    prepared: Prepared, folders: Mapping[str, Path], key: str, current: Current | None = None
) -> Answerer:
    """Opens a method of a run for new requests.

    Args:
        prepared: Output of the stages `split` and `data`.
        folders: Of the stages that the run has.
        key: The method, as in the table.
        current: The users and items that are asked about; None looks them up.

    Raises:
        PolicyError: The run stored no such method.
    """
    current = current or Current.of(prepared, folders)
    describe = describer_of(prepared, folders, current)
    ranker = load_ranker(folders["gates"]) if key == RANKER and "gates" in folders else None
    return Answerer(
        key=key,
        weigher=open_weigher(key if ranker is None else STATIC, prepared, folders, describe.reference.names),
        describe=describe,
        static=fixed_weights(prepared)[STATIC],
        common=common_lists_of(prepared, current),
        fusion=prepared.fusion,
        platt=prepared.platt,
        ranker=ranker,
    )
