"""Where `--to` may write: nothing is written over unasked, and stored stages never are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from softgrpo.flows.cli import main


@pytest.mark.parametrize("name", ["weights.parquet", "figures"])
def test_a_link_into_the_stored_stages_is_never_followed(
    name: str, run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stored,) = (output / "stages").glob("test-*/")
    copy = tmp_path / "copy"
    shutil.copytree(stored, copy)
    before = {path: path.read_bytes() for path in stored.rglob("*") if path.is_file()}
    shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    (copy / name).symlink_to(stored / name)
    assert main(["report", run_id, "--to", str(copy), "--overwrite", "--output", str(output)]) == 2
    assert "is stored and never written over" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in stored.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("flag", [[], ["--overwrite"]])
@pytest.mark.parametrize("place", ["stages", "stages/KEY", "LINK"])
def test_lists_and_windows_never_go_into_the_stored_stages(
    place: str, flag: list[str], run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stored,) = (output / "stages").glob("test-*/")
    (tmp_path / "LINK").symlink_to(stored)
    folder = tmp_path / "LINK" if place == "LINK" else output / place.replace("KEY", stored.name)
    before = sorted(output.rglob("*"))
    assert main(["recommend", run_id, "--to", str(folder / "x.json"), *flag, "--output", str(output)]) == 2
    assert main(["windows", "ml-100k", "--to", str(folder / "new"), *flag]) == 2
    assert capsys.readouterr().err.count("is stored and never written over") == 2
    assert sorted(output.rglob("*")) == before


def test_lists_are_not_written_over_unasked(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, elsewhere = tmp_path / "mine.json", tmp_path / "elsewhere"
    mine.write_text("years of work")
    words = ["recommend", run_id, "--users", "u1", "--output", str(output), "--to", str(mine)]
    assert main(words) == 2
    assert f"'{mine}' exists. Nothing is written over unasked" in capsys.readouterr().err
    assert mine.read_text() == "years of work"
    elsewhere.write_text("of somebody else")
    mine.unlink()
    mine.symlink_to(elsewhere)
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0
    assert json.loads(mine.read_text())[0]["user"] == "u1" and not mine.is_symlink()
    assert elsewhere.read_text() == "of somebody else"
    assert main(["recommend", run_id, "--users", "u1", "--overwrite", "--output", str(output)]) == 2
    assert "--overwrite without --to" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "mine.json", "out"]


def test_windows_are_not_written_over_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["windows", "ml-100k", "--to", str(tmp_path), "--data.max_users", "50"]
    (tmp_path / "items.parquet").write_text("mine")
    assert main(words) == 2
    assert f"'{tmp_path / 'items.parquet'}' exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["items.parquet"]
    assert main([*words, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.parquet", "items.parquet", "windows.parquet"]
