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


def tether_server(log: Path) -> None:
    """Lets Prefect start its temporary server in a process group of its own, to end when this process is gone.

    A terminal sends Ctrl-C to the whole foreground group. The server would end before the flow that still has to report its
    end to it, and the flow would try to reach it for minutes. And after `kill -9` nobody is left to end the server but itself.

    Args:
        log: File for what the server says.
    """
    from prefect.server.api import server

    class Tethered(subprocess.Popen[Any]):
        def __init__(self, args: list[str], **options: Any) -> None:
            python, _, *module = args  # python -m uvicorn ...
            # -P: the folder of tether.py does not become a place of modules
            args = [python, "-P", str(Path(__file__).with_name("tether.py")), *module]
            with log.open("ab") as said:
                super().__init__(
                    args, stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT, process_group=0, **options
                )

    # it has no setting for this
    vars(server)["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": Tethered})


def open_prefect(output: Path, debug: bool = False) -> None:
    """Readies Prefect and the console for a flow in this process; call it behind `prepare` and the import of the flow.

    Args:
        output: Folder of all that is written.
        debug: Show on the console all that libraries log, tracebacks included.
    """
    from prefect.client.orchestration import get_client

    from flows.console import make_readable
    from tasks.tracking import load_store

    if "PREFECT_API_URL" not in os.environ:
        tether_server(output / "prefect-server.log")
    make_readable(debug)
    with LocalStore(output / "stages").lock("prefect"):  # two first runs at once must not both make Prefect's database
        get_client(sync_client=True)
    load_store(output)


def run_pipeline(
    config: ExperimentConfig,
    until: str = "test",
    force: tuple[str, ...] = (),
    output: Path = Path("outputs"),
    from_run: str | None = None,
    debug: bool = False,
    *,
    parallel: int | None = None,
    dask: str | None = None,
) -> RunResult:
    """Runs the flow `softgrpo` in this process on a configuration that passed `preflight`; finished stages are reused.

    Args:
        config: The resolved configuration.
        until: Last stage wanted.
        force: Stages to repeat even if they are stored.
        output: Folder of all that is written: stages, and unless the environment says otherwise MLflow's and Prefect's databases.
        from_run: MLflow run, of a pipeline or of a stage, whose stages are used for those before the last one wanted.
        debug: Show on the console all that libraries log, tracebacks included.
        parallel: Recallers trained at once; None leaves it to the flow.
        dask: Address of a Dask cluster's scheduler, on which the stages are run.

    Returns:
        Folders, table, links and what was reused.

    Raises:
        ConfigError: There is no such stage or run, or the run is of another dataset or pool.
        StoreError: The folder cannot be written, no space is left, or MLflow or Prefect does not answer.
    """
    prepare(output)
    from flows.recipe import Repeatable, StageName, softgrpo_flow
    from softgrpo.pipeline import check_stage

    open_prefect(output, debug)
    dataset, size = config.data.dataset, config.policy.size
    overrides = difference(config, resolve(dataset, size))
    stage, repeated = cast("StageName", check_stage(until)), cast("list[Repeatable]", list(force))
    return softgrpo_flow(
        dataset,
        size,
        until=stage,
        overrides=overrides,
        force=repeated,
        from_run=from_run,
        output=output,
        check=False,
        parallel=parallel,
        dask=dask,
    )
