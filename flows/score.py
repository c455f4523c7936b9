"""The Prefect flow behind the deployment `softgrpo/score`: all users of a data set scored by a finished run, every night."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal

from softgrpo.common.interruption import interruptible
from softgrpo.config.section import Count
from softgrpo.errors import ConfigError
from softgrpo.flows.form import tag_run
from softgrpo.flows.results.failed_runs import fails_readably
from softgrpo.flows.results.newest import newest_refit, newest_run
from softgrpo.flows.results.scoring import Scored, ScoreOptions, open_to_score, score_run
from softgrpo.flows.results.shared_scoring import score_on_cluster
from softgrpo.flows.runtime.environment import check_takes_files
from softgrpo.tasks.running.retries import RETRY_DELAYS_SECONDS, worth_retrying
from softgrpo.tasks.servers.addresses import MLFLOW, check_servers_of_cluster

FOLDER = "scores"


@flow(name="softgrpo", flow_run_name="score {dataset}")
@fails_readably
def score_flow(
    dataset: str = "ml-100k",
    run: str = "",
    history: Path | None = None,
    method: str = "",
    k: Count | None = None,
    fresh: bool = False,
    dask: str | None = None,
    output: Path = Path("outputs"),
) -> Path:
    """Scores users with a finished run and writes `scores/<run>.parquet`; the file of the night before is replaced at once.

    Args:
        dataset: Name of the data set; its interactions as they are now are the histories.
        run: MLflow run of a pipeline; empty: the newest finished one of the data set, debug runs left out.
        history: A file of histories instead of the data set, on the machine that runs the flow.
        method: Row of the run's table whose weights are used; empty: the usual one of `softgrpo score`.
        k: Length of the lists; empty: the run's `fusion.k`.
        fresh: Ask the freshest refit of the data set, the one with the alias `fresh`; `run` is then empty.
        dask: Address of a Dask scheduler, over whose workers the users are shared out; empty: all are scored by this run.
        output: Folder of all that is written, on the machine that runs the flow.

    Raises:
        SoftGRPOError: There is no such run, or something cannot be read or written; nothing was written.
    """
    tag_run(dataset, "score")
    check_takes_files("output", output / FOLDER)
    if fresh and run:
        raise ConfigError(
            f"run = {run} and fresh = true",
            "A run is named, or the freshest refit is looked up",
            "Leave one of them out; a refit can be named too",
            code="CONFIG-108",
        )
    if dask is not None:
        check_servers_of_cluster((MLFLOW,))
    chosen: dict[str, Any] = {"method": method} if method else {}
    with interruptible(TerminationSignal):
        wanted = newest_refit(dataset, output) if fresh else run or newest_run(dataset, output)
        scored = score_users(wanted, ScoreOptions(history, k=k, **chosen), output, dask)
    log = get_run_logger()
    for note in scored.notes:
        log.warning("note: %s", note)
    log.info("%d users, %d items by run %s: %s", scored.users, scored.items, scored.run.run_id, scored.path)
    return scored.path


@task(
    name="score users",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS_SECONDS),
    retry_delay_seconds=RETRY_DELAYS_SECONDS,
    retry_condition_fn=worth_retrying,
)
def score_users(run: str, options: ScoreOptions, output: Path, dask: str | None = None) -> Scored:
    """Opens a run and scores users; a server that is down for a while is asked again.

    Args:
        run: MLflow run of a pipeline.
        options: What is scored, and how.
        output: Folder of finished stages.
        dask: Address of the scheduler of the cluster that scores them; None scores them here.
    """
    opened = open_to_score(run, output, options)
    path = output / FOLDER / f"{opened.run_id}.parquet"
    if dask is None:
        return score_run(opened, options, path)
    return score_on_cluster(opened, output, options, path, dask)
