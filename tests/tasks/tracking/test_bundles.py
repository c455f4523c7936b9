"""Bundles as models of MLflow: what they declare, that they load by themselves, and that they answer over real HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.scoring_server import predictions_to_json

from benchmarks.serving import served
from softgrpo.common.records import Part
from softgrpo.serving.answers import open_answerer
from softgrpo.serving.bundle import load_bundle, save_bundle
from softgrpo.tasks.tracking.bundles import REQUIREMENTS, write_model
from tests.softgrpo.serving.test_answers import asked
from tests.softgrpo.serving.test_bundle import NUMBERS, PROMPT, new_items, table
from tests.softgrpo.stages.tiny_run import DEPTH, RECALLERS, TinyRun, coloured_corpus, run_stages, toy_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    folder = tmp_path_factory.mktemp("served")
    model = toy_model(folder / "base")
    policy = {"model_name": model, "numbers": "head"}
    return run_stages(
        folder / "run", model, coloured_corpus(), new_items(), prompt=PROMPT, features=NUMBERS, policy=policy
    )


@pytest.fixture(scope="module")
def model(run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_bundle(folder / "bundle", run.prepared, run.folders, "grpo_multi")
    write_model(folder / "model", folder / "bundle")
    return folder / "model"


def test_a_model_declares_what_it_takes_and_names_no_place(model: Path) -> None:
    info = mlflow.models.get_model_info(str(model))
    names = {column.name: column.required for column in info.signature.inputs}
    assert names == {
        **dict.fromkeys(("request", "recaller", "item", "score"), True),
        **dict.fromkeys(("history", "history_titles", "history_times", "user_colour"), False),
        **dict.fromkeys(("record_ndcg", "record_rank", "record_windows"), False),
    }
    assert [column.name for column in info.signature.outputs][-4:] == [
        "weight_Left",
        "weight_Right",
        "method",
        "reason",
    ]
    assert info.signature.params.params[0].name == "k" and info.signature.params.params[0].default == 5
    pins = (model / "requirements.txt").read_text().split()
    assert [pin.partition("==")[0] for pin in pins] == list(REQUIREMENTS)
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
    for path in model.glob("*.*"):
        assert str(model.parent) not in path.read_text(), path
    assert not list(model.rglob("*.pkl")) and not list(model.rglob("__pycache__"))


def test_a_model_answers_its_example_as_its_bundle_does(model: Path) -> None:
    loaded = mlflow.pyfunc.load_model(str(model))
    example = loaded.input_example
    expected = load_bundle(model / "artifacts/bundle")(example, 3)
    pd.testing.assert_frame_equal(loaded.predict(example, params={"k": 3}), expected)
    with pytest.raises(mlflow.exceptions.MlflowException, match="CANDIDATE-022") as raised:
        loaded.predict(example[example["recaller"] == "Left"])
    assert raised.value.get_http_status_code() == 400


def test_what_a_ranker_does_not_give_is_null(run: TinyRun, tmp_path: Path) -> None:
    """JSON has no NaN: strict readers refuse it."""
    save_bundle(tmp_path / "bundle", run.prepared, run.folders, "ranker")
    write_model(tmp_path / "model", tmp_path / "bundle")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    answer = StringIO()
    predictions_to_json(loaded.predict(loaded.input_example), answer)
    rows = json.loads(answer.getvalue(), parse_constant=pytest.fail)["predictions"]
    assert {row["method"] for row in rows} == {"ranker"} and {row["weight_Left"] for row in rows} == {None}
    required = {column.name: column.required for column in loaded.metadata.signature.outputs}
    assert required["score"] and not required["from_Left"]


@pytest.mark.slow
def test_a_model_needs_neither_recallers_nor_an_orchestrator(model: Path, tmp_path: Path) -> None:
    """In a process of its own, elsewhere, with the package that is stored with the model."""
    code = (
        "import sys\n"
        "for name in ('recbole', 'prefect', 'trl', 'optuna', 'matplotlib', 'tasks', 'flows'): sys.modules[name] = None\n"
        "import mlflow\n"
        f"model = mlflow.pyfunc.load_model({str(model)!r})\n"
        "print(len(model.predict(model.input_example)))\n"
        "import softgrpo; print(softgrpo.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    count, place = done.stdout.splitlines()[-2:]
    assert int(count) > 0 and Path(place).is_relative_to(model / "code")


def post(address: str, frame: pd.DataFrame, **params: int) -> tuple[int, dict[str, object]]:
    """Sends a table; returns the status and what was answered."""
    rows = frame.astype(object).where(frame.notna(), None)
    body = {"dataframe_split": {"columns": list(rows), "data": rows.to_numpy().tolist()}, "params": params}
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_served_model_says_what_the_offline_merge_says(run: TinyRun, model: Path, tmp_path: Path) -> None:
    """To the last digit; with two versions at once, bad requests in between, and after the server was killed."""
    rows = run.prepared.windows.of(Part.TEST)
    frame = table(run, rows)
    offline = open_answerer(run.prepared, run.folders, "grpo_multi")(asked(run, rows), 5)
    save_bundle(tmp_path / "bundle", run.prepared, run.folders, "static")
    write_model(tmp_path / "static", tmp_path / "bundle")

    def check(address: str) -> None:
        status, answer = post(address, frame)
        assert status == 200
        given = pd.DataFrame(answer["predictions"])
        shares = given[[f"from_{name}" for name in RECALLERS]].to_numpy()
        user, place = np.nonzero(offline.items >= 0)
        tokens = run.prepared.corpus.items["token"].to_numpy(object)
        assert given["item"].tolist() == tokens[offline.items[user, place]].tolist()
        np.testing.assert_array_equal(shares, offline.shares[user, place])
        np.testing.assert_array_equal(given[[f"weight_{name}" for name in RECALLERS]].to_numpy(), offline.weights[user])

    with served(model) as address:
        check(address)
        for change, code in (
            ({"recaller": "Pop"}, "CANDIDATE-020"),
            ({"score": float("nan")}, "CANDIDATE-021"),
            ({"recaller": "Left"}, "CANDIDATE-022"),
        ):
            status, answer = post(address, frame.head(30).assign(**change))
            assert status == 400 and code in str(answer["message"]), answer
        assert post(address, frame, k=DEPTH + 1)[0] == 400
        with served(tmp_path / "static") as other:
            methods = {row["method"] for row in post(other, frame)[1]["predictions"]}  # type: ignore[attr-defined]
            assert methods == {"static"}
            check(address)
    with served(model) as address:  # a new server on the same files, after one was killed in the middle of a request
        listening = subprocess.run(
            ["pgrep", "-f", f"uvicorn.*{address.rpartition(':')[2]}"], capture_output=True, text=True, check=True
        )
        for process in map(int, listening.stdout.split()):
            os.kill(process, signal.SIGKILL)
        with pytest.raises(OSError):
            post(address, frame.head(3))
    with served(model) as address:
        check(address)
