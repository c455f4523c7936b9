"""`softgrpo tune`: what it tells its flow, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import softgrpo.flows.cli as cli
from softgrpo.presets import resolve


def test_tune_hands_everything_to_its_flow(groups: list[Any], tmp_path: Path) -> None:
    words = [
        "tune",
        "ml-100k",
        "debug",
        "tiny",
        "--trials",
        "7",
        "--no-final",
        "--top_p",
        "0.8",
        "--output",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    named = {"grpo.top_p": "0.8"}
    parameters = {"dataset": "ml-100k", "size": "tiny", "debug": True, "overrides": named, "trials": 7, "final": False}
    parameters |= {"output": tmp_path, "check": False, "parallel": None, "dask": None}
    assert groups == [resolve("ml-100k", "tiny", "debug", named), parameters]
