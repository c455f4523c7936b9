"""What the commands of several pipelines refuse, and what they print for machines."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import softgrpo.flows.cli as cli


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("multi-recaller ml-100k full tiny --pools BPR,SASRek BPR,Pop", "Did you mean 'SASRec'"),
        ("multi-recaller ml-100k full tiny --pools BPR BPR,Pop", "at least two recallers"),
        ("multi-recaller ml-100k grpo tiny", "stage 'grpo'"),
        ("ablate ratios ml-100k full tiny", "Did you mean 'ratio'"),
        ("ablate ratio ml-100k grpo tiny", "stage 'grpo'"),
        ("tune ml-100k full tiny --trials 0", "A study has at least one"),
        ("tune ml-100k full tiny --grpo_lr 1", "grpo.learning_rate = 1. The search starts there"),
        ("tune ml-100k full tiny --trial 3", "Did you mean '--trials'"),
        ("tune ml-100k full tiny --parallel 0", "At least one recaller is trained at a time"),
        ("tune ml-100k full tiny --parallel 2 --dask tcp://127.0.0.1:8786", "Leave one out"),
        (
            "multi-recaller ml-100k full tiny --dask tcp://127.0.0.1:8786",
            "without PREFECT_API_URL and MLFLOW_TRACKING_URI",
        ),
    ],
)
def test_wrong_groups_are_refused(
    words: str, message: str, groups: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words.split(), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert groups == [] and not (tmp_path / "out").exists()


def test_groups_are_record_to_machines_as_json_alone(
    groups: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from softgrpo.flows.results.comparison import ComparedRuns

    table = pd.DataFrame({"method": ["A/grpo_multi"], "vs_first_p": [float("nan")]})
    compared = ComparedRuns(table, ("a sentence",), 10, None, {}, {})
    monkeypatch.setattr(sys.modules["softgrpo.flows.variants"], "multi_recaller_flow", lambda **parameters: compared)
    where = ["--json", "--output", str(tmp_path)]
    assert cli.main(["multi-recaller", "ml-100k", "full", "tiny", *where]) == 0
    record = json.loads(capsys.readouterr().out)
    row = {"method": "A/grpo_multi", "vs_first_p": None}
    assert record == {
        "k": 10,
        "rows": [row],
        "verdicts": ["a sentence"],
        "link": None,
        "runs": [],
        "differences": {},
        "html": None,
    }
    trials = pd.DataFrame({"grpo.top_p": [0.9], "state": ["complete"]})
    values = {"trials": trials, "best": {"grpo.top_p": 0.9}, "value": 0.2, "command": "softgrpo run", "link": "here"}
    tuned = types.SimpleNamespace(**values, final=None, k=10, page=Path("study.html"))
    monkeypatch.setattr(sys.modules["softgrpo.flows.tune"], "tune_flow", lambda **parameters: tuned)
    assert cli.main(["tune", "ml-100k", "full", "tiny", *where]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["html"] == "study.html"
    assert (
        record["best"] == {"grpo.top_p": 0.9} and record["rows"] is None and record["trials"][0]["state"] == "complete"
    )
