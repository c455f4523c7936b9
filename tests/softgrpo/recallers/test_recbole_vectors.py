"""What RecBole models hold about a user is what they score by, and nothing from behind the history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.softgrpo.recallers.cases import ITEMS, TRAIN, corpus_of, cycles, windows_of
from tests.softgrpo.recallers.test_recbole import SEQUENTIAL, TINY, train

pytest.importorskip("recbole")

from softgrpo.recallers.recbole_vectors import _READ, has_user_vector, user_vectors

SMALL: dict[str, dict[str, Any]] = {
    "ENMF": {"epochs": 1, "embedding_size": 8},
    "LINE": {"epochs": 1, "embedding_size": 8},
    "NGCF": {"epochs": 1, "embedding_size": 8, "hidden_size_list": [8]},
    "SGL": {"epochs": 1, "embedding_size": 8, "n_layers": 1},
    "SpectralCF": {"epochs": 1, "embedding_size": 8, "n_layers": 1},
    "NARM": {**SEQUENTIAL, "epochs": 1, "embedding_size": 8, "hidden_size": 8},
    **{name: {**SEQUENTIAL, "epochs": 1, "embedding_size": 8} for name in ("STAMP", "SRGNN")},
    **{name: {**SEQUENTIAL, "epochs": 1, "hidden_size": 8, "inner_size": 8} for name in ("GCSAN", "LightSANs")},
}
ITEM_FACTORS: dict[str, Callable[[Any], torch.Tensor]] = {
    "ENMF": lambda model: model.item_embedding.weight * model.H_i.weight,
    "FPMC": lambda model: torch.cat([model.IU_emb.weight, model.IL_emb.weight], dim=1),
    **dict.fromkeys(("LightGCN", "NGCF", "DGCF", "SGL", "SpectralCF"), lambda model: model.restore_item_e),
}
"""By what a vector is multiplied to make scores; for all other models, their item embeddings."""


def vectors_of(model: Any, users: list[int], histories: list[list[int]]) -> NDArray[np.float32]:
    return user_vectors(model, np.array(users), [np.array(history, dtype=np.int32) for history in histories])


@pytest.mark.parametrize("name", sorted(_READ))
def test_a_vector_is_what_a_model_scores_by(tmp_path: Path, name: str) -> None:
    corpus, _ = cycles()
    model: Any = train(name, tmp_path, SMALL.get(name) or TINY[name])
    users, histories = [3, 0, 8], [corpus.sequence(user)[:TRAIN].tolist() for user in (3, 0, 8)]
    vectors = vectors_of(model, users, histories)
    factors = ITEM_FACTORS.get(name, lambda trained: trained.item_embedding.weight)(model.model)
    scores = model.score(np.array(users), [np.array(history, dtype=np.int32) for history in histories])[:, :ITEMS]
    expected = torch.from_numpy(vectors) @ factors.detach()[model.data.item_ids[:ITEMS]].T
    torch.testing.assert_close(expected, scores, rtol=1e-4, atol=1e-5)
    assert has_user_vector(name)


def test_models_without_a_vector_are_told_apart() -> None:
    assert [name for name in ("ItemKNN", "Pop", "EASE", "Text", "Mine", "MultiVAE") if has_user_vector(name)] == []


def test_factors_are_those_of_the_user(tmp_path: Path) -> None:
    """User 1 has no training item: RecBole does not know it. The others get the numbers that are put into the model."""
    world = corpus_of([[0, 1, 2], [2, 1], [2, 3, 1]], 4), windows_of([(0, 2, 3), (1, 1, 2), (2, 2, 3)], [2, 0, 2])
    model: Any = train("BPR", tmp_path, {"epochs": 1, "embedding_size": 2}, world)
    assert model.data.user_ids.tolist() == [1, 0, 2]
    model.model.user_embedding.weight.data = torch.tensor([[9.0, 9], [1, 2], [3, 4]])
    np.testing.assert_array_equal(
        vectors_of(model, [2, 0, 1, 2], [[1], [0], [2], []]), [[3, 4], [1, 2], [np.nan, np.nan], [3, 4]]
    )
    assert vectors_of(model, [1], [[2]]).shape == (1, 2)


def test_a_state_follows_from_the_latest_items(tmp_path: Path) -> None:
    """With sequences of 5, an older item changes nothing, an item that nobody trained on is skipped, and each other one counts."""
    model: Any = train("SASRec", tmp_path)
    base, *others = vectors_of(
        model, [0, 0, 0, 0, 0], [[0, 1, 2, 3, 4], [9, 0, 1, 2, 3, 4], [0, 1, ITEMS, 2, 3, 4], [0, 1, 2, 3, 5], [ITEMS]]
    )
    np.testing.assert_allclose(others[0], base, atol=1e-6)
    np.testing.assert_allclose(others[1], base, atol=1e-6)
    assert abs(others[2] - base).max() > 1e-3
    assert np.isnan(others[3]).all()


def test_fpmc_has_a_factor_of_the_user_and_one_of_the_last_item(tmp_path: Path) -> None:
    model: Any = train("FPMC", tmp_path)
    (found,) = vectors_of(model, [4], [[0, 1, 2]])
    expected = [
        model.model.UI_emb.weight[model.data.user_ids[4]],
        model.model.LI_emb.weight[model.data.item_ids[2]],
    ]
    np.testing.assert_array_equal(found, torch.cat(expected).detach().numpy())
