"""The door to the orchestrated pipeline. It imports neither Prefect nor MLflow before their environment is set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flows.environment import prepare
from softgrpo.config import ExperimentConfig, Section
from softgrpo.pipeline import RunResult
from softgrpo.presets import resolve


def difference(config: Section, base: Section, prefix: str = "") -> dict[str, Any]:
    """Returns the settings in which two configurations differ, by dotted path, as JSON-able data of the first."""
    found: dict[str, Any] = {}
    plain = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value, other = dict(config)[name], dict(base)[name]
        if isinstance(value, Section):
            found |= difference(value, other, f"{prefix}{name}.")
        elif value != other:
            found[f"{prefix}{name}"] = plain[name]
    return found


def run_pipeline(
    config: ExperimentConfig, until: str = "test", force: tuple[str, ...] = (), output: Path = Path("outputs")
) -> RunResult:
    """Runs the flow `softgrpo` in this process; finished stages are reused.

    Args:
        config: The resolved configuration.
        until: Last stage wanted.
        force: Stages to repeat even if they are stored.
        output: Folder of all that is written: stages, and unless the environment says otherwise the databases of MLflow and Prefect.

    Returns:
        Folders, table, links and what was reused.

    Raises:
        StoreError: The folder cannot be written, no space is left, or MLflow or Prefect does not answer.
    """
    prepare(output)
    from flows.recipe import softgrpo_flow  # imports Prefect and MLflow
    from tasks.tracking import check_answers

    if address := os.environ.get("PREFECT_API_URL"):
        check_answers(address, "PREFECT_API_URL")
    dataset, size = config.data.dataset, config.policy.size
    overrides = difference(config, resolve(dataset, size))
    return softgrpo_flow(dataset, size, until, force, overrides, output)
