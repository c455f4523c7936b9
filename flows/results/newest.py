"""The newest run of a data set, for deployments that name none."""

from __future__ import annotations

from pathlib import Path

from softgrpo.errors import ConfigError
from softgrpo.tasks.tracking.connection import connect
from softgrpo.tasks.tracking.listing import list_pipelines
from softgrpo.tasks.tracking.refits import freshest_refit

LOOKED_AT = 500
"""Runs that are looked at for the newest finished one of a data set."""


def newest_run(dataset: str, output: Path) -> str:
    """Returns the id of the newest finished run of the whole pipeline on a data set, debug runs left out.

    Raises:
        ConfigError: There is none.
        StoreError: MLflow does not answer.
    """
    found = list_pipelines(connect(output), LOOKED_AT)
    for each in found:
        whole = each["status"] == "FINISHED" and each["ndcg"] is not None
        if whole and each["dataset"] == dataset and not each["debug"]:
            return each["run_id"]
    raise ConfigError(
        f"dataset {dataset}",
        f"None of the newest {len(found):,} runs is a finished one of the whole pipeline on it, debug runs left out",
        "Name a run, or train one: softgrpo run DATASET full tiny",
        code="CONFIG-094",
    )


def newest_refit(dataset: str, output: Path) -> str:
    """Returns the id of the freshest refit of a data set, by the alias `fresh` of the registered models, debug runs left out.

    Raises:
        ConfigError: There is none.
        StoreError: MLflow does not answer.
    """
    found = freshest_refit(connect(output), dataset)
    if found is None:
        raise ConfigError(
            f"dataset {dataset} with fresh = true",
            "No registered model of it has the alias fresh, debug runs left out",
            "Refit a run first: softgrpo refit RUN, or the deployment softgrpo/refit",
            code="CONFIG-107",
        )
    return found
