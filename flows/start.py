"""The door to the orchestrated pipeline. It imports neither Prefect nor MLflow before their environment is set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

from softgrpo.common.paths import stages_folder
from softgrpo.config import ExperimentConfig
from softgrpo.flows.results.recorded import RecordedRun
from softgrpo.flows.results.refit import RefitPlan, Refitted
from softgrpo.flows.runtime.session import begin_prefect, open_prefect
from softgrpo.pipeline.plan import look_ahead, plan
from softgrpo.pipeline.store import LocalStore
from softgrpo.presets.changes import as_overrides
from softgrpo.stages.contract import AnyStage, StageName, check_stage


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
    from softgrpo.flows.pipeline import run_softgrpo, softgrpo_flow, with_body

    open_prefect(output, debug)
    stage = cast("StageName", check_stage(until))
    body = partial(
        run_softgrpo, config, stage, force, output, from_run, check=False, parallel=parallel, dask=dask
    )  # the parameters below are for Prefect's page alone
    return with_body(softgrpo_flow, body)(
        config.data.dataset,
        size=config.policy.size,
        until=stage,
        overrides=as_overrides(config),
        force=cast("list[AnyStage]", list(force)),
        from_run=from_run,
        output=output,
        check=False,
        parallel=parallel,
        dask=dask,
    )


def start_refit(
    plan: RefitPlan, output: Path = Path("outputs"), parallel: int | None = None, *, debug: bool = False
) -> Refitted:
    """Runs the flow of a refit in this process; finished stages are reused.

    Args:
        plan: From `softgrpo.flows.results.refit.open_to_refit`.
        output: Folder of all that is written.
        parallel: Recallers trained at once; None leaves it to the flow.
        debug: Show on the console all that libraries log, tracebacks included.

    Raises:
        SoftGRPOError: See `softgrpo.flows.refit.run_refit`.
    """
    begin_prefect(output)
    from softgrpo.flows.pipeline import with_body
    from softgrpo.flows.refit import refit_flow, run_refit

    open_prefect(output, debug)
    flow = with_body(refit_flow, partial(run_refit, plan, output, parallel))
    return flow(plan.config.data.dataset, plan.run.run_id, plan.config.data.data_path, output, parallel)
