"""Which method validation windows choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from softgrpo.errors import ConfigError, DataError
from softgrpo.evaluation.chosen import Chosen, UsableMethod, read_chosen, write_chosen

A = UsableMethod("A", "A", "single", 0.25, (1.0, 0.0))
GATE = UsableMethod("gate_boosting", "Boosted trees", "gate", 0.5)
POLICY = UsableMethod("grpo_multi", "SofT-GRPO multi", "learned", 0.5 + 1e-9)


def test_the_highest_is_chosen_and_of_equal_ones_the_simplest() -> None:
    assert Chosen.of(10, 3, [A, GATE, POLICY]).best == "gate_boosting", "the policy's lead is a rounding"
    better = UsableMethod("grpo_multi", "SofT-GRPO multi", "learned", 0.51)
    assert Chosen.of(10, 3, [A, GATE, better]).best == "grpo_multi"


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_method_without_ndcg_is_never_chosen_and_is_named(missing: float | None) -> None:
    chosen = Chosen.of(10, 1234, [A, UsableMethod("grpo_multi", "SofT-GRPO multi", "learned", missing)])
    assert chosen.best == "A" and chosen.unknown == ("SofT-GRPO multi",)
    assert chosen.sentence(()) == (
        "Of 2 methods, validation windows choose this one: A, NDCG@10 0.2500 on 1,234 windows; "
        "not evaluated there: SofT-GRPO multi."
    )
    with pytest.raises(DataError, match="1 methods without NDCG"):
        Chosen.of(10, 3, [UsableMethod("A", "A", "single", missing)])


def test_the_sentence_compares() -> None:
    chosen = Chosen.of(5, 7, [A, GATE])
    assert chosen.sentence(("A", "gate_boosting")) == (
        "Of 2 methods, validation windows choose this one: Boosted trees, NDCG@5 0.5000 on 7 windows (A 0.2500)."
    )


def test_a_method_is_found_by_its_key_and_the_best_by_best(tmp_path: Path) -> None:
    assert read_chosen(tmp_path) is None
    write_chosen(tmp_path, Chosen.of(10, 3, [A, GATE]))
    chosen = read_chosen(tmp_path)
    assert chosen == Chosen.of(10, 3, [A, GATE])
    assert (chosen.method("A"), chosen.method("best")) == (A, GATE)
    with pytest.raises(ConfigError, match=r"method 'boosting'.*best or a row.*: A, gate_boosting\."):
        chosen.method("boosting")
