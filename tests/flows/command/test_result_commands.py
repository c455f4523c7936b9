"""`report` and `recommend` on a stored run of tiny stages, and what they refuse."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from flows.cli import main
from flows.command.recommend import recommend_from_run
from softgrpo.baselines.static_mixture import Candidate, StaticMixture
from softgrpo.common.records import CandidateLists, Corpus, Part, Windows
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import write_corpus
from softgrpo.data.windows import make_windows, write_windows
from softgrpo.evaluation.pages.provenance import PROVENANCE, place
from softgrpo.presets import resolve
from softgrpo.recallers.candidates import write_candidates
from softgrpo.stages.contract import Node, Stage, StageContext
from softgrpo.stages.inputs import save_static
from tests.softgrpo.data.cases import corpus_of

NAMES = ("A", "B")
SETTINGS = {"recall.recallers": list(NAMES), "recall.files": {"A": "a", "B": "b"}, "fusion.k": 5}
METRICS = {"ndcg@5": 0.2, "ndcg@10": 0.25, "ndcg@20": 0.3, "recall@10": 0.4, "recall@20": 0.5}
DIFFERENCES = [
    f"vs_{name}{piece}" for name in ("single", "static") for piece in ("", "_relative", "_low", "_high", "_p")
]


def world() -> tuple[Corpus, Windows]:
    corpus = corpus_of([[(user + 3 * step) % 40 for step in range(12)] for user in range(6)])
    return corpus, make_windows(corpus, ExperimentConfig().split)


def fill_split(context: StageContext) -> dict[str, float]:
    corpus, windows = world()
    write_corpus(context.out, corpus)
    write_windows(context.out, windows)
    return {}


def fill_data(context: StageContext) -> dict[str, float]:
    _, windows = world()
    items = (np.arange(len(windows))[:, None, None] + np.array([[0], [7]]) + np.arange(12)) % 40
    scores = np.broadcast_to(np.arange(12, 0, -1, dtype=np.float32), items.shape)
    write_candidates(context.out / "candidates.parquet", CandidateLists(NAMES, items.astype(np.int32), scores.copy()))
    best = Candidate("grid", (0.75, 0.25), 0.1, 0.2)
    save_static(context.out, StaticMixture(best, best, (best,)))
    return {}


def fill_test(context: StageContext) -> dict[str, float]:
    rows = {"method": ["A", "grpo_multi"], "label": ["A", "SofT-GRPO multi"], "kind": ["single", "learned"]}
    pd.DataFrame(rows | METRICS | dict.fromkeys(DIFFERENCES, 0.1)).to_parquet(context.out / "table.parquet")
    count = len(world()[1].of(Part.TEST))
    weights = pd.DataFrame({"A": np.linspace(0, 1, count), "B": np.linspace(1, 0, count), "method": "grpo_multi"})
    weights.to_parquet(context.out / "weights.parquet")
    (context.out / "figures").mkdir()
    (context.out / "figures/a.png").write_bytes(b"a figure")
    (context.out / "report.html").write_text(f"<h1>report</h1>{place(PROVENANCE)}")
    (context.out / "report.md").write_text(f"# report\n{place(PROVENANCE)}")
    return {"ndcg@5/grpo_multi": METRICS["ndcg@5"]}


def fill_policy(context: StageContext) -> dict[str, float]:
    (context.out / "made").write_text("made")
    return {"best_ndcg": 0.2, "validation_windows": 6.0}


def nodes() -> tuple[Node, ...]:
    def stage(name: str, fill: Any) -> Stage:
        return Stage(name, fill, lambda config, _: {"name": name}, "softgrpo.common.columns", ("numpy",))

    return (
        Node("split", stage("split", fill_split), "", ()),
        Node("data", stage("data", fill_data), "", ("split",)),
        Node("grpo", stage("grpo", fill_policy), "", ("split", "data")),
        Node("test", stage("test", fill_test), "", ("split", "data", "grpo")),
    )


def run(output: Path, until: int = 4) -> str:
    """Runs the stages as a flow does; returns the id of the run."""
    from prefect import flow

    from flows.pipeline import execute

    config = resolve("shop", "tiny", overrides=SETTINGS)
    result = flow(lambda: execute(nodes()[:until], config, output=output), validate_parameters=False)()
    return result.run_id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Path, str]:
    """Runs the stages once; output folder and id of the run."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it in tests that store a model
        return folder, run(folder)


@pytest.fixture
def output(made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the output folder; nothing in it says where it lies."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copytree(made[0], tmp_path / "out"))


@pytest.fixture
def run_id(made: tuple[Path, str]) -> str:
    return made[1]


def test_the_runs_are_listed_the_newest_first(output: Path, run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.create_experiment("softgrpo/other", artifact_location="mlflow-artifacts:/stages")
    tags = {"stage": "pipeline", "seed": "7"}
    killed = client.create_run(experiment, tags=tags, run_name="killed at its start").info.run_id
    client.set_terminated(killed, "KILLED")
    client.create_run(client.create_experiment("of somebody else"), tags=tags)
    assert main(["runs", "--output", str(output), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["run_id"], first["status"], first["recallers"], first["seed"]) == (killed, "KILLED", [], 7)
    assert (second["run_id"], second["status"], second["recallers"]) == (run_id, "FINISHED", ["A", "B"])
    assert (second["dataset"], second["k"], second["ndcg"]) == ("shop", 5, METRICS["ndcg@5"])
    assert main(["runs", "--output", str(output), "--most", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and killed[:6] in lines[1] and "killed at its start" in lines[1]


def test_what_a_list_of_runs_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["runs", "--output", str(tmp_path)]) == 2
    assert "No run is stored there" in capsys.readouterr().err
    assert main(["runs", "--output", str(tmp_path), "--most", "0"]) == 2
    assert "--most 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


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


def test_all_users_are_written_and_chosen_ones_are_shown(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output)]
    assert main(["recommend", run_id, *where]) == 0
    shown = capsys.readouterr()
    written = output / "recommendations" / f"{run_id}.parquet"
    assert "6 users, 30 items" in shown.out and "users/s" in shown.out and str(written) in shown.out
    assert shown.err == ""
    table = pd.read_parquet(written)
    assert table["user"].nunique() == 6 and (table.groupby("user").size() == 5).all()
    assert np.allclose(table["from_A"] + table["from_B"], table["score"])
    assert (table["weights"] == "policy").all()

    assert (
        main(["recommend", run_id, "--users", "u3", "stranger", "--k", "2", "--to", str(tmp_path / "r.json"), *where])
        == 0
    )
    shown = capsys.readouterr()
    assert "u3" in shown.out and "from A" in shown.out
    assert "note: 1 of 2 users get the static mixture (not in the run's data" in shown.err and "stranger" in shown.err
    records = json.loads((tmp_path / "r.json").read_text())
    assert [record["source"] for record in records] == ["policy", "static"]
    assert [item["item"] for item in records[0]["items"]] == table[table["user"] == "u3"]["item"].tolist()[:2]


def test_lists_of_chosen_users_are_shown_and_leave_those_of_all_alone(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output)]
    assert main(["recommend", run_id, *where]) == 0
    (written,) = (output / "recommendations").iterdir()
    before = written.read_bytes()
    capsys.readouterr()
    assert main(["recommend", run_id, "--users", "u1", "u2", *where]) == 0
    shown = capsys.readouterr().out
    assert "u1" in shown and shown.endswith("\n2 users, 10 items\n")
    assert [path.read_bytes() for path in (output / "recommendations").iterdir()] == [before]
    many = [f"stranger{number}" for number in range(11)]
    assert main(["recommend", run_id, "--users", *many, *where]) == 2
    assert "11 users. Lists of chosen users are shown, up to 10 of them" in capsys.readouterr().err
    assert main(["recommend", run_id, "--users", *many, "--to", str(tmp_path / "many.parquet"), *where]) == 0
    assert pd.read_parquet(tmp_path / "many.parquet")["user"].nunique() == 11
    assert [path.read_bytes() for path in (output / "recommendations").iterdir()] == [before]


@pytest.mark.parametrize("wrong", ["u1,u2", "u1,", ",u2"])
def test_users_with_commas_between_them_are_told_how(
    wrong: str, run_id: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", run_id, "--users", wrong, "u3", "--output", str(output)]) == 2
    known = " ".join(part for part in wrong.split(",") if part)
    assert f"Users are separated by spaces: --users {known}" in capsys.readouterr().err


def test_a_name_may_have_a_comma(run_id: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", run_id, "--users", "u1,stranger", "--output", str(output)]) == 0
    assert "u1,stranger" in capsys.readouterr().err  # gets the static mixture, like anybody who is not in the data


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


def test_titles_in_brackets_are_shown_as_they_are(
    run_id: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_title(*given: Any) -> Any:
        made = recommend_from_run(*given)
        made.recommended.items["title"] = ["Avanti[health and Beauty]", "[/x]", "a\nb", "d", "e"]
        return made

    monkeypatch.setattr("flows.command.recommend.recommend_from_run", with_title)
    assert main(["recommend", run_id, "--users", "u1", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert all(title in shown for title in ("Avanti[health and Beauty]", "[/x]", "a\\nb"))


def test_from_run_is_checked_before_anything_runs(
    run_id: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: pytest.fail("it came too late"))
    before = sorted(output.rglob("*"))
    for source, message in (("nobody", "MLflow has no such run"), (run_id[:6], "The stages of a run can be used with")):
        words = ["run", "ml-100k", "grpo", "tiny", "--from-run", source, "--output", str(output)]
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert sorted(output.rglob("*")) == before


def test_json_goes_to_the_standard_output_and_nothing_is_written(
    run_id: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = tmp_path / "users.txt"
    users.write_bytes(b"\xef\xbb\xbfu1\n\n u2 \n")  # with the mark that some editors begin a file with
    assert main(["recommend", run_id, "--users-from", str(users), "--json", "--output", str(output)]) == 0
    assert [record["user"] for record in json.loads(capsys.readouterr().out)] == ["u1", "u2"]
    assert not (output / "recommendations").exists()


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
        (["report", "nobody"], "MLflow has no such run"),
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
    from mlflow import MlflowClient

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


def test_candidates_of_another_pool_are_refused(
    run_id: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.command.recommend.stored_weights", lambda folder, recallers: np.ones((6, 3)) / 3)
    assert main(["recommend", run_id, "--output", str(output)]) == 2
    assert "policy outputs of shape (6, 3)" in capsys.readouterr().err
