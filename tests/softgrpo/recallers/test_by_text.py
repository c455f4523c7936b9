"""The recaller `Text` on embeddings made by hand, whose lists follow from their angles."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from softgrpo.recallers import by_text
from softgrpo.recallers.by_text import TextRecaller, windows_at_a_time
from softgrpo.recallers.candidates import build_candidates
from tests.softgrpo.recallers.cases import corpus_of, windows_of

EMBEDDINGS = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 0], [1, 0], [0.8, 0.6]], dtype=np.float32)
"""Item 3 has no text; items 0 and 4 have the same. Nobody has interacted with items 2, 4 and 5."""
SEQUENCES = [[0, 1, 0], [1, 0, 3], [3, 1, 0], [0, 3, 1]]


def lists(
    windows: list[tuple[int, int, int]], depth: int = 4, history_items: int = 2, half_life: float = 1.0
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:  # fmt: skip
    """Returns the candidate lists of windows (user, start, end)."""
    model = TextRecaller(EMBEDDINGS, history_items, half_life)
    batch = windows_at_a_time(1024, len(EMBEDDINGS))
    corpus, made = corpus_of(SEQUENCES, len(EMBEDDINGS)), windows_of(windows, [1, 1, 1, 1])
    return build_candidates(model, corpus, made, depth, batch, "test")


def test_the_closest_unseen_items_come_first_and_ties_go_to_the_lower_id() -> None:
    items, scores = lists([(1, 1, 2)])  # after item 1 alone the query is (0, 1)
    assert items.tolist() == [[2, 5, 0, 4]]
    assert np.allclose(scores, [[0.8, 0.6, 0.0, 0.0]])


def test_items_without_a_text_are_neither_listed_nor_part_of_a_query() -> None:
    items, scores = lists([(0, 1, 2), (3, 2, 3), (2, 1, 2)], depth=5)
    # after 0, and after 0 and 3, the query is (1, 0): item 1 is at a right angle; after 3 alone there is none
    assert items.tolist() == [[4, 5, 2, 1, -1], [4, 5, 2, 1, -1], [-1, -1, -1, -1, -1]]
    assert np.allclose(scores[0, :4], [1.0, 0.8, 0.6, 0.0]) and np.isnan(scores[2]).all()


def test_weights_halve_from_the_latest_item_back() -> None:
    items, scores = lists([(0, 2, 3)])  # 0, then 1: (1/2, 1) / sqrt(5/4)
    assert items.tolist() == [[2, 5, 4, -1]]
    assert np.allclose(scores[0, :3], np.array([0.3 + 0.8, 0.4 + 0.6, 0.5]) / np.sqrt(1.25))
    _, slower = lists([(0, 2, 3)], half_life=2.0)
    assert np.allclose(
        slower[0, 2], np.sqrt(0.5) / np.sqrt(1.5)
    )  # item 4: weight 2^(-1/2) of the item before the latest


def test_the_query_ends_after_the_wanted_number_of_items_with_a_text() -> None:
    whole, _ = lists([(1, 3, 3)])  # 1, 0 and 3: of the last two with a text, 0 is the latest, so (1, 1/2)
    assert whole.tolist() == [[5, 2, 4, -1]] or whole.tolist() == [[5, 4, 2, -1]]
    _, latest = lists([(1, 3, 3)], history_items=1)
    assert np.allclose(latest[0, :3], [1.0, 0.8, 0.6])


def test_lists_do_not_depend_on_how_many_scores_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = [(user, start, start + 1) for user in range(4) for start in (1, 2)]
    whole = lists(windows, history_items=1)  # no two different texts are equally close, which digits would decide
    for most in (1, 13, 20):  # windows one by one, by two, by three
        monkeypatch.setattr(by_text, "MOST_SCORES", most)
        for ours, theirs in zip(lists(windows, history_items=1), whole, strict=True):
            assert np.allclose(ours, theirs, equal_nan=True)


@pytest.mark.parametrize(("items", "windows"), [(1_000, 1024), (100_000, 167), (1_000_000, 16), (10**9, 1)])
def test_the_more_items_the_fewer_windows_at_a_time(items: int, windows: int) -> None:
    assert windows_at_a_time(1024, items) == windows


def test_opposite_texts_leave_no_query() -> None:
    model = TextRecaller(np.array([[1, 0], [-1, 0], [0, 1]], dtype=np.float32), 2, 1e30)  # equal weights
    assert model.score(np.zeros(1, np.int64), [np.array([0, 1], np.int32)]).isneginf().all()
