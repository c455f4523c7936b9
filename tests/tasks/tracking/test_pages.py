"""Addresses of MLflow's pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from softgrpo.tasks.tracking.pages import run_page, start_page, version_page


@contextmanager
def answering(code: int, answer: Any) -> Iterator[str]:
    """Gives the address of a server that answers a search for experiments."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            right = self.path.endswith("experiments/search") and body["order_by"] == ["last_update_time DESC"]
            self.send_response(code if right else 400)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def view(k: int, created: int) -> dict[str, str]:
    key = f"mlflow.sharedViewState.softgrpo-single-against-multi-at-{k}"
    return {"key": key, "value": json.dumps({"name": "x", "createdAt": created, "state": ""})}


def test_the_view_that_was_made_last_in_the_experiment_that_changed_last() -> None:
    somebodys = {"key": "mlflow.sharedViewState.abc", "value": "deflate;x"}
    broken = {"key": "mlflow.sharedViewState.softgrpo-single-against-multi-at-20", "value": "deflate;x"}
    without, with_two, older = {"experiment_id": "1"}, {"experiment_id": "2"}, {"experiment_id": "3"}
    found = [
        {**without, "tags": [somebodys]},
        {**with_two, "tags": [view(10, 8), view(5, 9), broken]},
        {**older, "tags": [view(7, 9)]},
    ]
    with answering(200, {"experiments": found}) as server:
        assert start_page(f"{server}/") == (
            f"{server}/#/experiments/2/runs?workflowType=machine_learning"
            "&viewStateShareKey=softgrpo-single-against-multi-at-5"
        )


@pytest.mark.parametrize(("code", "answer"), [(200, {}), (401, {}), (200, {"experiments": [{"experiment_id": "1"}]})])
def test_without_a_view_the_list_of_experiments(code: int, answer: Any) -> None:
    with answering(code, answer) as server:
        assert start_page(server) == f"{server}/#/experiments"


def test_pages_of_runs_and_models_are_those_for_training() -> None:
    assert (
        run_page("1", "ab", "/artifacts/report.html")
        == "#/experiments/1/runs/ab/artifacts/report.html?workflowType=machine_learning"
    )
    assert version_page("a/b c", "3") == "#/models/a%2Fb%20c/versions/3?workflowType=machine_learning"
