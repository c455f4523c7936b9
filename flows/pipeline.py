"""The door to the orchestrated pipeline. It imports neither Prefect nor MLflow before their environment is set."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
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


def shield_server_from_ctrl_c() -> None:
    """Lets Prefect start its temporary server in a process group of its own.

    A terminal sends Ctrl-C to the whole foreground group. The server would end before the flow that still has to report its
    end to it, and the flow would try to reach it for minutes.
    """
    from prefect.server.api import server

    class Apart(subprocess.Popen[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, process_group=0, **kwargs)

    vars(server)["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": Apart})  # it has no setting for this


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

    if "PREFECT_API_URL" not in os.environ:
        shield_server_from_ctrl_c()
    with LocalStore(output / "stages").lock("prefect"):  # two first runs at once must not both make Prefect's database
        get_client(sync_client=True)
    dataset, size = config.data.dataset, config.policy.size
    overrides = difference(config, resolve(dataset, size))
    stage = cast("StageName", check_stage(until))
    return softgrpo_flow(dataset, size, stage, force, overrides, output)
