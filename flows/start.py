"""The door to the orchestrated pipeline. It imports neither Prefect nor MLflow before their environment is set."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, cast

import softgrpo
from flows.results.summary import RecordedRun
from flows.runtime.environment import check_writable, expect, prepare
from flows.runtime.own_server import OwnServer
from softgrpo.common.paths import stages_folder
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.plan import look_ahead, plan
from softgrpo.pipeline.store import LocalStore
from softgrpo.presets import resolve
from softgrpo.presets.changes import difference
from softgrpo.presets.settings import value_of
from softgrpo.stages.contract import check_stage

DERIVED = ("recall.targets_per_user", "train.max_train_windows", "train.max_valid_windows")
"""Settings that may follow from the size of the data (`softgrpo.presets.derived`), beside those of recallers."""


def as_overrides(config: ExperimentConfig) -> dict[str, Any]:
    """Returns what `resolve` has to be told, beside dataset and size, to give this configuration; JSON-able."""
    dataset, size = config.data.dataset, config.policy.size
    found = difference(config, resolve(dataset, size))
    if resolve(dataset, size, overrides=found) == config:
        return found
    # settings of recallers are merged with the preset's, or with what follows from data in a folder that `found` names
    recallers = config.recall.model_dump(mode="json")["settings"]
    exact = {"recall.settings": {}} | {f"recall.settings.{name}": values for name, values in recallers.items()}
    derived = {path: value_of(config, path) for path in DERIVED}
    return {path: value for path, value in found.items() if path != "recall.settings"} | exact | derived


_own_servers: list[OwnServer] = []
"""The server that this process has started, if it has; then PREFECT_API_URL names it."""


def begin_prefect(output: Path) -> None:
    """Sets the environment, and starts a Prefect server where that names none; call it before anything imports Prefect.

    Args:
        output: Folder of all that is written.

    Raises:
        StoreError: The folder cannot be written, or a server that the environment names does not answer.
    """
    if has_own_server():
        check_writable(output)  # the server may still be starting, see `open_prefect`
        return
    prepare(output)
    if "PREFECT_API_URL" in os.environ:
        return
    if "prefect" in sys.modules:
        raise RuntimeError("Prefect has read its settings already: call begin_prefect before Prefect is imported")
    server = OwnServer(output)
    os.environ["PREFECT_API_URL"] = server.address
    expect(server.address)
    _own_servers.append(server)


def has_own_server() -> bool:
    """Whether Prefect's server is one that this process has started, which ends with it."""
    return os.environ.get("PREFECT_API_URL") in [server.address for server in _own_servers]


def open_prefect(output: Path, debug: bool = False) -> None:
    """Readies Prefect and the console for a flow in this process; call it behind `begin_prefect` and the import of the flow.

    Args:
        output: Folder of all that is written.
        debug: Show on the console all that libraries log, tracebacks included.

    Raises:
        StoreError: The server that `begin_prefect` started does not answer, or MLflow.
    """
    from flows.runtime.console import make_readable
    from softgrpo.pipeline.keys import code_fingerprint, library_versions
    from softgrpo.stages.catalogue import EVERY
    from tasks.tracking.connection import open_early
    from tasks.tracking.runs import git_commit

    make_readable(debug)
    open_early(output, LocalStore(stages_folder(output)))
    for stage in EVERY:  # the keys of all stages need it, and the server takes longer to start than the imports
        code_fingerprint(stage.module)
        with suppress(PackageNotFoundError):  # a plan without such a stage does not need it
            library_versions(stage.libraries)
    git_commit(Path(softgrpo.__file__).parent)
    gc.freeze()  # what the imports made stays: looking through all of it takes a third of a second, in the middle of the flow
    for server in _own_servers:
        server.wait()


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
) -> RecordedRun:
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
    begin_prefect(output)
    if from_run is None:  # files are read on another core than that which imports
        look_ahead(plan(config, until), config, force, LocalStore(stages_folder(output)))
    from flows.pipeline import Repeatable, StageName, softgrpo_flow

    open_prefect(output, debug)
    dataset, size = config.data.dataset, config.policy.size
    overrides = as_overrides(config)
    stage, repeated = cast("StageName", check_stage(until)), cast("list[Repeatable]", list(force))
    return softgrpo_flow(
        dataset,
        size=size,
        until=stage,
        overrides=overrides,
        force=repeated,
        from_run=from_run,
        output=output,
        check=False,
        parallel=parallel,
        dask=dask,
    )
