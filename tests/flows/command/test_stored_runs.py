"""How commands find a stored run, and what they refuse."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from softgrpo.flows.cli import main
from tests.flows.command.stored_run import run


def test_the_beginning_of_an_id_is_enough(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output)]
    assert main(["report", run_id[:6], "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == run_id
    assert main(["recommend", run_id[:8], *where]) == 0
    assert f"users/s\n{output / 'recommendations' / run_id}.parquet\n" in capsys.readouterr().out
    assert main(["report", run_id[:5], *where]) == 2
    assert "MLflow has no such run" in capsys.readouterr().err


def test_a_beginning_that_several_runs_have_is_refused(
    run_id: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = run_id[:10] + "".join("1" if letter == "0" else "0" for letter in run_id[10:])
    with closing(sqlite3.connect(output / "mlflow.db")) as database, database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(runs)")]
        values = ", ".join("?" if name == "run_uuid" else name for name in columns)
        database.execute(f"INSERT INTO runs SELECT {values} FROM runs WHERE run_uuid = ?", (twin, run_id))
    assert main(["report", run_id[:10], "--output", str(output)]) == 2
    shown = capsys.readouterr().err
    assert "Several runs begin so: " in shown and run_id in shown and twin in shown
    assert main(["report", run_id[:11], "--output", str(output)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recommend", "RUN", "--k", "13"], "k = 13. A list is merged from lists of recall.depth = 12"),
        (["recommend", "RUN", "--to", "r.csv"], "Recommendations are written as .parquet or .json"),
        (["recommend", "RUN", "--users-from", "nowhere.txt"], "There is no such file"),
        (["recommend", "RUN", "--users", "u1", "--users-from", "x"], "Users are named in one place"),
        (["recommend", "RUN", "--users", "u1", "u1"], "A user is asked for once"),
        (["recommend", "RUN", "--users", ""], "'' is no user"),
        (["recommend", "RUN", "--users-from", "LATIN"], "byte 1 is not UTF-8"),
        (["recommend", "RUN", "--to", "FOLDER.json"], "It is a folder, and must be a file"),
        (["report", "RUN", "--to", "STORE"], "is stored and never written over"),
        (["report", "RUN", "--to", "STORE/inside"], "is stored and never written over"),
        (["recommend", "nobody"], "MLflow has no such run"),
        (["export", "nobody", "--to", "new"], "MLflow has no such run"),
        (["export", "RUN", "--to", "STORE"], "is stored and never written over"),
        (["export", "RUN", "--to", "FOLDER.json", "--engines", "solr"], "There is no such engine"),
        (["export", "RUN", "--to", "FOLDER.json", "--queries", "q.json"], "Queries go into the bodies"),
        (["report", "nobody"], "MLflow has no such run"),
        (["refit", "nobody"], "MLflow has no such run"),
        (["refit", "STAGE"], "It must be the run of a pipeline"),
        (["refit", "RUN"], "a run whose recallers are all from files: A, B"),
        (["refit", "RUN", "--parallel", "0"], "--parallel 0"),
        (
            ["report", "0F1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"],
            "that of a run in Prefect; the id of the MLflow run is needed",
        ),
        (["report", "STAGE"], "It must be the run of a pipeline"),
        (["compare", "STAGE", "RUN"], "It must be the run of a pipeline"),
        (["recommend"], "RUN"),
    ],
)
def test_what_is_refused(
    words: list[str],
    message: str,
    run_id: str,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:

    monkeypatch.chdir(tmp_path)
    (tmp_path / "LATIN").write_bytes(b"J\xfcrgen\n")
    (tmp_path / "FOLDER.json").mkdir()
    (tmp_path / "STORE").symlink_to(next((output / "stages").glob("test-*/")))
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    given = {"RUN": run_id, "STAGE": client.get_run(run_id).data.tags["stage_run.data"]}
    before = sorted(output.rglob("*"))
    assert main([*(given.get(word, word) for word in words), "--output", str(output)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.out == ""
    assert sorted(output.rglob("*")) == before


def test_a_run_that_has_not_come_so_far(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = run(output, until=2)
    for command, stage in (("recommend", "grpo"), ("report", "test")):
        assert main([command, run_id, "--output", str(output)]) == 2
        assert f"It did not reach the stage {stage}" in capsys.readouterr().err
