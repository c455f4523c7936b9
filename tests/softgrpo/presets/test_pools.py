"""Pools of recallers and the configuration of each; what is refused is in tests/flows/test_multi_recaller.py."""

from __future__ import annotations

import pytest

from softgrpo.presets import resolve
from softgrpo.presets.pools import check_pools, default_pools, resolve_pools


@pytest.mark.parametrize(
    ("recallers", "names"),
    [("AB", "AB"), ("ABC", "ABC AB AC BC"), ("ABCD", "ABCD AB AC AD BC BD CD")],
)
def test_the_whole_pool_comes_first_and_then_its_pairs(recallers: str, names: str) -> None:
    assert default_pools(tuple(recallers)) == tuple(map(tuple, names.split()))


def test_recallers_are_spelt_as_recbole_does() -> None:
    assert check_pools([["bpr", "sasrec"], ["POP", "BPR"]]) == (("BPR", "SASRec"), ("Pop", "BPR"))


@pytest.mark.parametrize("stage", ["full", "debug"])
def test_a_pool_is_configured_as_a_run_of_its_own_would_be(stage: str) -> None:
    pools = [["BPR", "SASRec"], ["SASRec", "ItemKNN"]]
    whole, configs = resolve_pools("ml-100k", "tiny", stage, pools, {"seed": 7, "recall.settings.BPR.epochs": 3})
    assert whole.recall.recallers == ("BPR", "SASRec", "ItemKNN")
    said = {"seed": 7, "recall.recallers": ["BPR", "SASRec"], "recall.settings.BPR.epochs": 3}
    assert configs["BPR-SASRec"] == resolve("ml-100k", "tiny", stage, said)
    assert configs["SASRec-ItemKNN"] == resolve("ml-100k", "tiny", stage, {"seed": 7, "recall.recallers": pools[1]})


def test_the_preset_is_what_is_compared_if_nothing_is_said() -> None:
    whole, configs = resolve_pools("ml-100k", "tiny")
    assert whole == configs["SASRec-EASE-Text"] == resolve("ml-100k", "tiny")
    assert len(configs) == 4
