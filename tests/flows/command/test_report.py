"""`softgrpo report` on a stored run."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from softgrpo.flows.cli import main


def test_the_report_of_a_run_is_found_copied_and_told(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output)]
    assert main(["report", run_id, *where]) == 0
    shown = capsys.readouterr().out
    assert "SofT-GRPO multi" in shown and "0.2500" in shown
    page = Path(next(line.split()[-1] for line in shown.splitlines() if line.startswith("report ")))
    assert page == output.resolve() / "reports" / f"{run_id}.html"
    text = page.read_text()
    assert text.startswith("<h1>report</h1>") and f"<code>{run_id}</code>" in text
    command = html.unescape(text.split("<dt>command</dt><dd><code>")[1].split("</code>")[0])
    assert shlex.split(command)[:5] == ["softgrpo", "run", "shop", "full", "tiny"] and "--fusion.k 5" in command
    assert re.search(r"<dt>started</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>", text)
    (stored,) = (output / "stages").glob("test-*/report.html")
    assert run_id not in stored.read_text(), "what a stage stores knows no run"
    assert main(["report", run_id, "--to", str(tmp_path / "copy"), "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["html"]) == tmp_path / "copy" / "report.html" and Path(found["html"]).is_file()
    assert f"`{run_id}`" in Path(found["markdown"]).read_text() and run_id in Path(found["html"]).read_text()
    assert (found["run_id"], found["k"], found["rows"][1]["method"]) == (run_id, 5, "grpo_multi")
    assert main(["report", run_id, "--to", str(tmp_path / "copy"), *where]) == 2
    assert "exists. Nothing is written over unasked. Add --overwrite" in capsys.readouterr().err
    page = tmp_path / "copy" / "report.html"
    page.write_text("notes in an earlier report")
    assert main(["report", run_id, "--to", str(tmp_path / "copy"), "--overwrite", *where]) == 0
    assert page.read_text().startswith("<h1>report</h1>")
    capsys.readouterr()
    for name in ("report.md", "table.parquet"):  # a page of that name is not enough
        (tmp_path / "copy" / name).rename(tmp_path / name)
        assert main(["report", run_id, "--to", str(tmp_path / "copy"), "--overwrite", *where]) == 2
        assert "an earlier report (report.html, report.md and table.parquet)" in capsys.readouterr().err
        (tmp_path / name).rename(tmp_path / "copy" / name)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    assert main(["report", run_id, "--to", str(tmp_path / "full"), *where]) == 2
    assert "It must be a new folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_report_that_cannot_be_copied_is_one_line(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", run_id, "--to", str(tmp_path / "copy"), "--output", str(output)]
    assert main(words) == 0
    shutil.rmtree(tmp_path / "copy/figures")
    (tmp_path / "copy/figures").write_text("a file")
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"softgrpo: --to {tmp_path / 'copy'}: ") and "File exists" in said
    assert said.count("\n") == 1


def test_a_report_is_opened(
    run_id: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["report", run_id, "--open", "--output", str(output)]) == 0
    assert len(opened) == 1 and opened[0].startswith("file://") and opened[0].endswith(f"/reports/{run_id}.html")


def test_a_report_whose_files_are_gone_comes_from_mlflow(
    run_id: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(output / "stages")
    assert main(["report", run_id, "--json", "--output", str(output)]) == 0
    assert Path(json.loads(capsys.readouterr().out)["html"]).is_file()
