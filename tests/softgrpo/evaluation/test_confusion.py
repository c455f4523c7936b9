from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from transformers import EvalPrediction

from softgrpo.evaluation.confusion import choice_metrics, confusion_table
from softgrpo.evaluation.plots import confusion_figure

RECALLERS = ("A", "B", "C")


def measured(choice: list[int], ndcg: list[list[float]], rows: list[int] | None = None) -> dict[str, float]:
    """Returns the numbers of windows with these choices, as logits that prefer them."""
    prediction = EvalPrediction(5.0 * np.eye(3)[choice], np.array(rows or range(len(choice))))
    return choice_metrics(np.array(ndcg, np.float32), RECALLERS)(prediction)


def matrix(values: dict[str, float]) -> list[list[float]]:
    """Returns the confusion matrix among the numbers."""
    return confusion_table(values, RECALLERS).to_numpy().tolist()


def test_numbers_by_hand() -> None:
    found = measured(
        [0, 1, 1, 2, 0],
        [
            [0.5, 0.2, 0.0],  # A is best, A chosen: right
            [0.5, 0.5, 0.1],  # A and B are best, B chosen: right, counts for B
            [0.3, 0.0, 0.3],  # A and C are best, B chosen: wrong, half a window each
            [0.4, 0.0, 0.1],  # A is best, C chosen: wrong
            [0.0, 0.0, 0.0],  # no best one: left out
        ],
    )
    assert matrix(found) == [[1.0, 0.5, 1.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.0]]
    assert (found["windows_with_a_best"], found["accuracy"]) == (4.0, 2 / 4)
    # F1 = 2 hits / (row sum + column sum): A 2/(2.5 + 1), B 2/(1 + 2), C 0
    assert found["macro_f1"] == pytest.approx((2 / 3.5 + 2 / 3 + 0) / 3)


@given(st.lists(st.tuples(st.integers(0, 2), st.permutations([0.1, 0.2, 0.3])), min_size=1, max_size=30))
def test_without_ties_they_are_those_of_scikit_learn(windows: list[tuple[int, list[float]]]) -> None:
    choice, ndcg = [each[0] for each in windows], [each[1] for each in windows]
    truth = np.argmax(ndcg, axis=1)
    found = measured(choice, ndcg)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, choice))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, choice, average="macro", zero_division=0.0))
    assert matrix(found) == confusion_matrix(truth, choice, labels=range(3)).tolist()


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3)),
        min_size=1,
        max_size=30,
    )
)
def test_every_window_with_a_best_counts_once(windows: list[tuple[int, list[float]]]) -> None:
    hit = [each for each in windows if max(each[1]) > 0]
    found = measured([each[0] for each in windows], [each[1] for each in windows])
    assert found["windows_with_a_best"] == pytest.approx(len(hit))
    if hit:
        right = sum(ndcg[choice] == max(ndcg) for choice, ndcg in hit)
        assert found["accuracy"] == pytest.approx(right / len(hit))
        assert np.trace(matrix(found)) == pytest.approx(right)


def test_windows_are_found_by_their_number() -> None:
    ndcg = [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]
    assert measured([0, 1], ndcg)["accuracy"] == 1.0
    assert measured([1, 0], ndcg, rows=[1, 0])["accuracy"] == 1.0


def test_nothing_to_choose_between_gives_no_accuracy() -> None:
    found = measured([0, 1], [[0.0] * 3] * 2)
    assert found == {"windows_with_a_best": 0.0}
    assert matrix(found) == [[0.0] * 3] * 3


def test_the_figure_shows_every_number() -> None:
    table = pd.DataFrame([[7.0, 1.0], [2.0, 13.0]], index=["A", "B"], columns=["A", "B"])
    texts = [text.get_text() for text in confusion_figure(table).axes[0].texts]
    assert texts == ["7", "1", "2", "13"]
