"""Bounds on the recallers' shares as settings: what is refused before anything runs, and what they change in keys and pools."""

from __future__ import annotations

from typing import Any

import pytest

from softgrpo.errors import ConfigError
from softgrpo.presets import resolve
from softgrpo.presets.pools import resolve_pools
from softgrpo.stages.catalogue import DATA, GRPO, RECALL, SFT, TEST

POOL = {"recall.recallers": ["BPR", "ItemKNN", "Pop"], "data.data_path": "/nowhere"}


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"min_share.EASE": 0.1}, "fusion.min_share names EASE; the recallers of this run are BPR, ItemKNN, Pop"),
        ({"max_share.bpr": 0.1}, "fusion.max_share names bpr"),
        ({"min_share.BPR": 0.5, "max_share.BPR": 0.4}, "min_share.BPR = 0.5 is above fusion.max_share.BPR = 0.4"),
        ({"min_share": {"BPR": 0.5, "Pop": 0.6}}, "values of fusion.min_share sum to 1.1"),
        ({"max_share": {"BPR": 0.5, "Pop": 0.2, "ItemKNN": 0.2}}, "values of fusion.max_share sum to 0.9"),
        ({"min_share.BPR": 1.2}, "less than or equal to 1"),
        ({"max_share.BPR": -0.1}, "greater than or equal to 0"),
        ({"max_share.BPR": float("nan")}, "a finite number"),
    ],
)
def test_bounds_that_no_weights_keep_are_refused(bounds: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("ml-100k", "tiny", overrides=POOL | {f"fusion.{name}": value for name, value in bounds.items()})
    assert says in str(caught.value)
    assert caught.value.code in ("CONFIG-061", "CONFIG-062")


@pytest.mark.parametrize(
    "bounds", [{"min_share": dict.fromkeys(["BPR", "ItemKNN", "Pop"], 1 / 3)}, {"max_share.BPR": 0}]
)
def test_bounds_that_some_weights_keep_are_taken(bounds: dict[str, Any]) -> None:
    config = resolve("ml-100k", "tiny", overrides=POOL | {f"fusion.{name}": value for name, value in bounds.items()})
    assert all(merge.bounds is not None and len(merge.bounds[0]) == 3 for merge in config.merges)


def test_bounds_are_in_the_order_of_the_pool() -> None:
    bounds = {"fusion.max_share": {"Pop": 0.3, "BPR": 0.9}, "fusion.min_share.ItemKNN": 0.2}
    merges = resolve("ml-100k", "tiny", overrides=POOL | bounds).merges
    assert {merge.bounds for merge in merges} == {((0.0, 0.2, 0.0), (0.9, 1.0, 0.3))}
    assert {merge.unbounded.bounds for merge in merges} == {None}


def test_without_bounds_no_key_knows_them_and_with_bounds_those_that_merge_do() -> None:
    plain = resolve("ml-100k", "tiny", overrides=POOL)
    held = resolve("ml-100k", "tiny", overrides=POOL | {"fusion.max_share.Pop": 0.3})
    for stage in (DATA, SFT, GRPO, TEST):
        parameters = stage.parameters(plain, "")
        assert "share" not in str(parameters.get("config", parameters)["fusion"])
        assert parameters != stage.parameters(held, "")
    assert RECALL.parameters(plain, "BPR") == RECALL.parameters(held, "BPR")


def test_a_pool_keeps_the_bounds_of_its_recallers() -> None:
    bounds = {"fusion.max_share": {"Pop": 0.3, "BPR": 0.9}, "data.data_path": "/nowhere"}
    _, configs = resolve_pools("ml-100k", "tiny", pools=[["BPR", "Pop"], ["BPR", "ItemKNN"]], overrides=bounds)
    assert configs["BPR-Pop"].fusion.max_share == {"BPR": 0.9, "Pop": 0.3}
    assert configs["BPR-ItemKNN"].fusion.max_share == {"BPR": 0.9}
    with pytest.raises(ConfigError, match=r"sum to 0\.6"):
        resolve_pools(
            "ml-100k",
            "tiny",
            pools=[["BPR", "Pop"], ["BPR", "ItemKNN"]],
            overrides=bounds | {"fusion.max_share": {"BPR": 0.3, "Pop": 0.3}},
        )
