"""Addresses of MLflow's pages. It imports no MLflow, so that commands that only print an address need not wait for it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import requests

EXPERIMENTS = "softgrpo/"
"""Begins the names of experiments; the name of a dataset follows."""
TRAINING = "workflowType=machine_learning"
"""Without it MLflow opens the pages of another kind of experiment, on which there is nothing."""
VIEW_TAG = "mlflow.sharedViewState."
"""Begins the tags of an experiment that hold saved views."""
VIEW = "softgrpo-single-against-multi-at-"
TIMEOUT_SECONDS = 10.0


def view_id(k: int) -> str:
    """Returns the id of the saved view for runs of one cut-off, see `softgrpo.tasks.tracking.saved_view`."""
    return f"{VIEW}{k}"


def run_page(experiment_id: str, run_id: str, tab: str = "") -> str:
    """Returns the address of a run, relative to the server that shows it.

    Args:
        experiment_id: Of the run.
        run_id: The run.
        tab: Begins with `/`, such as `/artifacts/report.html`; "" is the overview.
    """
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab}?{TRAINING}"


def view_page(experiment_id: str, view: str) -> str:
    """Returns the address of a saved view, relative to the server that shows it.

    A filter or an order in the address would keep MLflow from applying the view.
    """
    return f"#/experiments/{experiment_id}/runs?{TRAINING}&viewStateShareKey={quote(view)}"


def model_page(name: str) -> str:
    """Returns the address of a registered model, relative to the server that shows it."""
    return f"#/models/{quote(name, safe='')}?{TRAINING}"


def version_page(name: str, version: str) -> str:
    """Returns the address of a version of a registered model, relative to the server that shows it."""
    return f"#/models/{quote(name, safe='')}/versions/{version}?{TRAINING}"


def start_page(server: str, login: tuple[str, str] | None = None) -> str:
    """Returns where to look first: the saved view of the experiment that changed last, or the list of experiments.

    Args:
        server: Address of a server that answers.
        login: User and password, where it asks for them.
    """
    base = server.rstrip("/")
    body: dict[str, Any] = {
        "filter": f"name LIKE '{EXPERIMENTS}%'",
        "order_by": ["last_update_time DESC"],
        "max_results": 50,
    }
    try:
        answer = requests.post(
            f"{base}/api/2.0/mlflow/experiments/search", json=body, auth=login, timeout=TIMEOUT_SECONDS
        )
        answer.raise_for_status()
        experiments = answer.json().get("experiments", [])
    except (requests.RequestException, ValueError):  # the start page is a right address too
        experiments = []
    pages = [page for experiment in experiments if (page := _newest_view(experiment)) is not None]
    return f"{base}/{pages[0] if pages else '#/experiments'}"


def _created(text: str) -> float:
    """Returns when a view was made, in ms; 0 where its tag does not say, as in a tag that softgrpo did not write."""
    try:
        return float(json.loads(text)["createdAt"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _newest_view(experiment: dict[str, Any]) -> str | None:
    """Returns the page of the experiment's view that was made last."""
    tags = {tag["key"]: tag["value"] for tag in experiment.get("tags", [])}
    created = {name: _created(text) for name, text in tags.items() if name.startswith(VIEW_TAG + VIEW)}
    if not created:
        return None
    return view_page(experiment["experiment_id"], max(created, key=lambda name: created[name]).removeprefix(VIEW_TAG))
