"""The door to the orchestrated pipeline. It imports neither Prefect nor MLflow before their environment is set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.environment import prepare
from softgrpo.config import ExperimentConfig, Section
from softgrpo.local_store import LocalStore
from softgrpo.presets import resolve

if TYPE_CHECKING:
    from softgrpo.pipeline import RunResult


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
        output: Folder of all that is written: stages, and unless the environment says otherwise MLflow's and Prefect's databases.

    Returns:
        Folders, table, links and what was reused.

    Raises:
        ConfigError: There is no such stage.
        StoreError: The folder cannot be written, no space is left, or MLflow or Prefect does not answer.
    """
    prepare(output)
    from prefect.client.orchestration import get_client

    from flows.recipe import StageName, softgrpo_flow
    from softgrpo.pipeline import check_stage

    with LocalStore(output / "stages").lock("prefect"):  # two first runs at once must not both make Prefect's database
        get_client(sync_client=True)
    dataset, size = config.data.dataset, config.policy.size
    overrides = difference(config, resolve(dataset, size))
    stage = cast("StageName", check_stage(until))
    return softgrpo_flow(dataset, size, stage, force, overrides, output)
