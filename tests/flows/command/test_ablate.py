"""`softgrpo ablate`: what it tells its flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import softgrpo.flows.cli as cli
from softgrpo.presets import resolve


def test_ablate_hands_everything_to_its_flow(groups: list[Any], tmp_path: Path) -> None:
    words = [
        "ablate",
        "ratio",
        "ml-100k",
        "debug",
        "tiny",
        "--top_p",
        "0.8",
        "--parallel",
        "2",
        "--output",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    named = {"grpo.top_p": "0.8"}
    base, other, parameters = groups
    assert base == resolve("ml-100k", "tiny", "debug", named)
    assert other == resolve("ml-100k", "tiny", "debug", {**named, "grpo.importance_ratio": "concrete"})
    assert parameters == {
        "name": "ratio",
        "dataset": "ml-100k",
        "size": "tiny",
        "debug": True,
        "overrides": named,
        "output": tmp_path,
        "check": False,
        "parallel": 2,
        "dask": None,
    }
