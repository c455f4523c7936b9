"""`softgrpo multi-recaller`: what it tells its flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import softgrpo.flows.cli as cli
from softgrpo.presets import resolve


def test_multi_recaller_hands_everything_to_its_flow(groups: list[Any], tmp_path: Path) -> None:
    words = [
        "multi-recaller",
        "ml-100k",
        "full",
        "tiny",
        "--dataset",
        "steam",
        "--seed",
        "7",
        "--output",
        str(tmp_path),
    ]
    assert cli.main([*words, "--parallel", "2", "--pools", "BPR,pop", "BPR,EASE"]) == 0
    pools = [["BPR", "pop"], ["BPR", "EASE"]]
    whole = resolve("steam", "tiny", overrides={"seed": 7, "recall.recallers": ["BPR", "Pop", "EASE"]})
    parameters = {"dataset": "steam", "size": "tiny", "debug": False, "overrides": {"seed": "7"}, "pools": pools}
    parameters |= {"output": tmp_path, "check": False, "parallel": 2, "dask": None}
    assert groups == [whole, parameters]
    groups.clear()
    assert cli.main([*words, "--recbole_models", "BPR", "Pop", "EASE"]) == 0
    assert groups[0] == whole
    overrides = {"seed": "7", "recall.recallers": ["BPR", "Pop", "EASE"]}
    assert groups[1] == parameters | {"pools": None, "overrides": overrides, "parallel": None}
