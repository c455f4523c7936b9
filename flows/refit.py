"""The Prefect flow of `softgrpo refit` and of the deployment `softgrpo/refit`: recallers trained on everything up to now."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal

from softgrpo.common.files import make_private
from softgrpo.common.interruption import interruptible
from softgrpo.common.names import SNAPSHOT_NODE
from softgrpo.common.redaction import passwords_hidden
from softgrpo.flows.form import tag_run
from softgrpo.flows.results.failed_runs import fails_readably
from softgrpo.flows.results.newest import newest_run
from softgrpo.flows.results.refit import RefitPlan, Refitted, open_to_refit
from softgrpo.flows.runtime.console import attach_run_logging
from softgrpo.flows.runtime.environment import check_writable
from softgrpo.flows.runtime.lost_runs import mark_alive
from softgrpo.pipeline.refit import refit_plan, served_as, trained_recallers
from softgrpo.pipeline.run import read_metrics
from softgrpo.tasks.executors import Executor, open_executor
from softgrpo.tasks.running.progress_file import progress_file
from softgrpo.tasks.running.retries import RETRY_DELAYS_SECONDS, worth_retrying
from softgrpo.tasks.stage import Progress
from softgrpo.tasks.tracking.lookup import open_store_of_run, read_run, stage_runs
from softgrpo.tasks.tracking.refits import FRESH, Lineage, note_refit, refit_run, register_refit
from softgrpo.tasks.tracking.store import ArtifactStore, Reference

READ = ("split", "embed")
"""Stages of the finished run that a refit reads."""
COUNTED = ("users", "items", "interactions")


@flow(name="softgrpo", flow_run_name="refit {dataset}")
@fails_readably
def refit_flow(
    dataset: str = "ml-100k",
    run: str = "",
    data_path: Path | None = None,
    output: Path = Path("outputs"),
    parallel: int | None = None,
) -> Refitted:
    """Trains the recallers of a finished run again, on all interactions of its data set as it is now; methods and merge stay.

    Args:
        dataset: Name of the data set whose newest finished run is taken.
        run: MLflow run of a pipeline; empty: the newest finished one of the data set, debug runs left out.
        data_path: Folder that holds a folder for each dataset, on the machine that runs the flow; empty: that of the run.
        output: Folder of all that is written, on the machine that runs the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.

    Raises:
        SoftGRPOError: There is no such run, or its data set lost something.
    """
    check_writable(output)
    plan = open_to_refit(run or newest_run(dataset, output), output, data_path)
    for note in plan.notes():
        get_run_logger().warning("note: %s", note)
    return run_refit(plan, output, parallel)


def run_refit(plan: RefitPlan, output: Path, parallel: int | None) -> Refitted:
    """Brings a refit to its end, inside a flow: each recaller is found or trained, then the refit is registered.

    Args:
        plan: From `open_to_refit`.
        output: Folder of all that is written.
        parallel: Recallers trained at once; None leaves it to the machine.

    Raises:
        SoftGRPOError: The data set lost something, a training fails, or MLflow does not answer.
    """
    tag_run(plan.config.data.dataset, "refit")
    with interruptible(TerminationSignal), mark_alive(output), open_executor(parallel) as executor:
        return execute(plan, output, executor)


@passwords_hidden()
def execute(plan: RefitPlan, output: Path, executor: Executor) -> Refitted:
    """Runs the stages of a refit and registers it; arguments and errors as of `run_refit`."""
    attach_run_logging()
    run, config = plan.run, plan.config
    store, results = open_store_of_run(run.run_id, output), make_private(output.resolve() / "records")
    evaluated = read_run(store, run.run_id)
    stages = stage_runs(store, evaluated)
    given = {name: store.fetch(name, read_run(store, stages[name])) for name in READ if name in stages}
    debug = evaluated.data.tags.get("debug") == "true"
    lineage = Lineage(run.run_id, run.name, debug, given["split"]["digest"])
    nodes = refit_plan(config)
    with refit_run(store.runs, config, lineage) as run_id:
        progress = Progress(config, store, run_id, (), results, references=dict(given))
        estimates: dict[str, float | None] = dict.fromkeys(node.name for node in nodes)
        with progress_file(output, store.runs.liveness, run_id, f"refit {run.name}", estimates):
            for batch in executor.batches(nodes):
                executor.run_nodes(progress, batch)
        own = {node.name: progress.references[node.name] for node in nodes}
        note_refit(store.runs, run_id, config, own)
        model = register(plan, store, lineage, run_id, own)
    metrics = read_metrics(progress.folders()[SNAPSHOT_NODE])
    return Refitted(
        run_id=run_id,
        refit_of=run.run_id,
        recallers=trained_recallers(config),
        reused=tuple(name for name in own if name not in progress.ran),
        counts={key: int(metrics[key]) for name in COUNTED for key in (name, f"new_{name}")},
        data={"then": lineage.data, "now": own[SNAPSHOT_NODE]["digest"]},
        model=model,
        alias=FRESH if model else "",
        link=store.runs.tracking.run_link(run_id),
    )


@task(
    name="register refit",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS_SECONDS),
    retry_delay_seconds=RETRY_DELAYS_SECONDS,
    retry_condition_fn=worth_retrying,
)
def register(plan: RefitPlan, store: ArtifactStore, lineage: Lineage, run_id: str, own: dict[str, Reference]) -> str:
    """Makes a refit the freshest version of the run's policy; returns its name and version, "" where there is no policy.

    Args:
        plan: The refit.
        store: Where its stages are.
        lineage: Where it comes from.
        run_id: Its MLflow run.
        own: Its nodes.
    """
    refitted = {served_as(name): store.local.payload(reference["key"]) for name, reference in own.items()}
    with store.local.lock("registry"):
        version = register_refit(store.runs, plan.config, lineage, run_id, own, plan.run.folders | refitted)
    return "" if version is None else f"{version.name}, version {version.version}"
