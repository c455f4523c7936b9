"""What the commands that run one pipeline print at its end, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import softgrpo.flows.cli as cli
from softgrpo.flows.command import pipeline
from softgrpo.flows.results.recorded import RecordedRun
from softgrpo.pipeline.run import RunResult


def test_the_end_of_a_run_says_where_things_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = {name: tmp_path / name for name in ("split", "data", "sft", "grpo")}
    pipeline.announce(RunResult(None, folders, ("split", "data"), {"MLflow run": "somewhere"}), 10)
    shown = {line.split("  ")[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert shown["MLflow run"] == "somewhere"
    assert shown["sft model"] == str(tmp_path / "sft")
    assert shown["grpo model"] == str(tmp_path / "grpo")
    assert shown["stages reused"] == "data"
    assert shown["stages run"] == "grpo"


def test_a_run_is_told_to_machines_as_json_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"method": ["BPR"], "ndcg@10": [0.25], "vs_single_p": [float("nan")]})
    (tmp_path / "test").mkdir()
    for name in ("report.html", "report.md"):
        (tmp_path / "test" / name).write_text("a report")
    result = RunResult(table, {"test": tmp_path / "test"}, ("test",), {})
    page = str(tmp_path / "reports" / "test.html")
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: ["a note"])
    monkeypatch.setattr("softgrpo.pipeline.run.run_standalone", lambda *arguments: result)
    monkeypatch.setattr("softgrpo.flows.runtime.console.make_readable", lambda debug: None)
    assert cli.main(["run", "ml-100k", "standalone", "tiny", "--json", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "run_id": None,
        "tracking": None,
        "report": page,
        "models": {},
        "pure_models": {},
        "k": 10,
        "rows": [{"method": "BPR", "ndcg@10": 0.25, "vs_single_p": None}],
        "folders": {"test": str(tmp_path / "test")},
        "reused": ["test"],
        "links": {"report": page},
    }
    assert shown.err == "note: a note\n"
    assert Path(page).read_text() == "a report"


def test_json_of_a_recorded_run_has_its_id_its_server_and_its_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("data", "sft", "grpo")}
    result = RecordedRun(None, folders, (), {"MLflow run": "abc in x"}, run_id="abc", tracking="http://127.0.0.1:5000")
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: [])
    monkeypatch.setattr("softgrpo.flows.start.run_pipeline", lambda *arguments, **options: result)
    assert cli.main(["run", "ml-100k", "grpo", "tiny", "--json", "--output", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["run_id"], told["tracking"], told["report"]) == ("abc", "http://127.0.0.1:5000", None)
    assert told["models"] == {name: str(tmp_path / name) for name in ("sft", "grpo")}
    for name, place in told["pure_models"].items():
        assert Path(place).parent == tmp_path / "pure_models" / "ml-100k" and f"_pure_{name}_" in place


def test_the_comparison_is_about_the_cut_off_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: [])
    result = RunResult(pd.DataFrame(), {}, ())
    monkeypatch.setattr("softgrpo.pipeline.run.run_standalone", lambda *arguments: result)
    monkeypatch.setattr("softgrpo.flows.runtime.console.make_readable", lambda debug: None)

    monkeypatch.setattr("softgrpo.flows.command.output.print_comparison", lambda table, k: asked.append(k))
    words = ["run", "ml-100k", "standalone", "tiny", "--fusion.k", "7", "--output", str(tmp_path)]
    assert cli.main(words) == 0
    assert asked == [7]
