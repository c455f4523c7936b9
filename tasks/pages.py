"""Addresses of MLflow's pages on files of a run and on registered models, where a server shows them."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from tasks.tracking import Tracking

TRAINING_VIEW = "?workflowType=machine_learning"
"""Makes MLflow show its pages for training, not those for language models as services."""


def has_pages(tracking: Tracking) -> bool:
    """Tells whether a server shows MLflow's pages; a database alone has none."""
    return urlsplit(tracking.uri).scheme in ("http", "https")


def artifact_page(tracking: Tracking, run_id: str, path: str) -> str:
    """Returns the address of the page that shows a file of a run.

    Args:
        tracking: The open connection, see `has_pages`.
        run_id: The run.
        path: Of the file among those of the run.
    """
    page = f"/#/experiments/{tracking.experiment_id}/runs/{run_id}/artifacts/{quote(path)}"
    return f"{_server(tracking)}{page}{TRAINING_VIEW}"


def model_page(tracking: Tracking, name: str) -> str:
    """Returns the address of the page of a registered model, see `has_pages`."""
    return f"{_server(tracking)}/#/models/{quote(name, safe='')}"


def _server(tracking: Tracking) -> str:
    return tracking.uri.rstrip("/")
