"""The Prefect flow `softgrpo`. It imports Prefect: call `softgrpo.flows.runtime.session.begin_prefect` before this import."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from prefect import Flow, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from softgrpo.common.files import make_private
from softgrpo.common.interruption import interruptible
from softgrpo.common.redaction import passwords_hidden
from softgrpo.config import ExperimentConfig
from softgrpo.flows.form import FrequentSettings, check_dataset, gather_overrides, tag_run
from softgrpo.flows.results.failed_runs import fails_readably
from softgrpo.flows.results.recorded import RecordedRun
from softgrpo.flows.results.summary import publish_page, recorded, result_page, verdict_of
from softgrpo.flows.runtime.console import VERDICT_LOGGER, attach_run_logging
from softgrpo.flows.runtime.environment import check_writable
from softgrpo.flows.runtime.lost_runs import mark_alive
from softgrpo.flows.runtime.session import has_own_server
from softgrpo.pipeline.costs import missing, seconds_by_node
from softgrpo.pipeline.plan import check_force, plan
from softgrpo.pipeline.preflight import preflight
from softgrpo.pipeline.resources import estimate_lines
from softgrpo.pipeline.run import read_table
from softgrpo.presets import resolve
from softgrpo.presets.changes import find_changes
from softgrpo.serving.pure_models import show_model
from softgrpo.stages.contract import AnyStage, Node, StageName, unwatched
from softgrpo.tasks.executors import SERIAL, Executor, open_executor
from softgrpo.tasks.pipeline_run import note_nodes, open_store, pipeline_run
from softgrpo.tasks.running.progress_file import progress_file
from softgrpo.tasks.stage import Progress
from softgrpo.tasks.tracking.groups import Member
from softgrpo.tasks.tracking.lookup import upstream_of
from softgrpo.tasks.tracking.prefetch import prefetching, stored_digest
from softgrpo.tasks.tracking.run_names import About, flow_run_name
from softgrpo.tasks.tracking.store import ArtifactStore, Reference

P = ParamSpec("P")
R = TypeVar("R")
Size = Literal["tiny", "mini", "small", "large"]


def log_preflight_notes(config: ExperimentConfig, until: str = "test") -> None:
    """Looks for all that would fail later, and logs what is worth a note.

    Raises:
        SoftGRPOError: Something would fail.
    """
    for note in preflight(config, until):
        get_run_logger().warning("note: %s", note)


def log_estimates(
    nodes: Sequence[Node],
    config: ExperimentConfig,
    force: tuple[str, ...],
    store: ArtifactStore,
    upstream: Mapping[str, Reference],
    executor: Executor,
) -> dict[str, float]:
    """Logs what the stages of a plan that are not stored will take of time, memory and disk, if one of them trains something.

    Returns:
        The seconds of each of these stages by node, nothing where no line is logged.

    Raises:
        MemoryLimitError: A stage would take more memory than it may, see `softgrpo.pipeline.resources.check_room`.
        StoreError: The files would take more than is free.
    """
    digests = {name: reference["digest"] for name, reference in upstream.items()}
    left = missing(nodes, config, force, partial(stored_digest, store), digests)
    output = store.local.root if executor.works_here else None
    copies = 1 if store.runs.tracking.has_pages else 2  # without a server, MLflow's files are in the output folder too
    lines = estimate_lines(left, config, output, executor.recallers_at_once, copies)
    for line in lines:
        get_run_logger().info(line)
    return seconds_by_node(left, config) if lines else {}


@passwords_hidden()
def begin(config: ExperimentConfig, output: Path) -> ArtifactStore:
    """Lets the run be heard, and opens the store.

    Raises:
        StoreError: Something cannot be written, or MLflow does not answer.
    """
    attach_run_logging()
    check_writable(output)
    return open_store(config, output)


def prefect_page() -> str | None:
    """Returns the page of the flow run that this is called in, None where its server ends with this process."""
    return None if has_own_server() else str(flow_run.ui_url)


@passwords_hidden()
def execute(
    nodes: Sequence[Node],
    config: ExperimentConfig,
    force: tuple[str, ...] = (),
    output: Path = Path("outputs"),
    from_run: str | None = None,
    member: Member | None = None,
    executor: Executor = SERIAL,
) -> RecordedRun:
    """Brings a plan to its end, inside a flow: each node is found or run, verified, committed and noted.

    Args:
        nodes: The plan, every node behind its upstream nodes.
        config: The resolved configuration.
        force: Stages to repeat even if they are stored.
        output: Folder of all that is written.
        from_run: MLflow run whose stages are used for those before the last one.
        member: Makes the run a member of a group, such as a trial of a study.
        executor: Runs the stages, see `softgrpo.tasks.executors`.

    Raises:
        ConfigError: `from_run` is unknown, or of another dataset or pool.
        StoreError: Something cannot be written, or MLflow does not answer.
    """
    store = begin(config, output)
    results = make_private(output.resolve() / "records")
    upstream = upstream_of(store, from_run, nodes, config) if from_run else {}
    about = About.of(config, nodes[-1].stage.name, member.name if member else None, prefect_page())
    watch = member.watch if member else unwatched
    expected = () if upstream else nodes
    with (
        prefetching(store, expected, config, force) as prefetched,
        pipeline_run(store, config, nodes, about, member) as run_id,
    ):
        progress = Progress(config, store, run_id, force, results, watch, prefetched, about=about)
        seconds: dict[str, float] = {}
        if watch is unwatched:  # a study has many trials, of a known length
            seconds = log_estimates(nodes, config, force, store, upstream, executor)
        estimates = {node.name: seconds.get(node.name) for node in nodes}
        with progress_file(output, store.runs.liveness, run_id, about.name, estimates):
            for name, reference in upstream.items():
                progress.take(name, reference)
                get_run_logger().info("%s: taken from run %s", name, from_run)
            run_batches(progress, executor.batches(nodes), output, executor)
            page = publish_page(progress, output) if "test" in progress.references else None
    result = recorded(progress, read_table(progress.folders()), page)
    create_markdown_artifact(result_page(progress, result), key="result", description=about.name)
    for sentence in verdict_of(result):
        logging.getLogger(VERDICT_LOGGER).info("%s", sentence)
    return result


def run_batches(progress: Progress, batches: Sequence[Sequence[Node]], output: Path, executor: Executor) -> None:
    """Brings the nodes to their end that a run has not taken from elsewhere, and notes them all in its MLflow run.

    Args:
        progress: The pipeline run; the nodes' references are added.
        batches: The plan as the executor takes it.
        output: Folder of all that is written.
        executor: Runs the stages.
    """
    finished: list[Node] = []
    for batch in batches:
        to_run = [node for node in batch if node.name not in progress.references]
        if finished and not all(map(progress.seems_stored, to_run)):
            note_nodes(progress, finished)  # before what takes long, or fails
            finished = []
        executor.run_nodes(progress, to_run)
        for node in batch:
            finished.append(node)
            if progress.watch is unwatched:  # what a study tries is no result yet
                show_model(output, progress.config, node, progress.folders()[node.name])
    note_nodes(progress, finished, whole=True)


def run_softgrpo(
    config: ExperimentConfig,
    until: str,
    force: tuple[str, ...],
    output: Path,
    from_run: str | None,
    *,
    check: bool,
    parallel: int | None,
    dask: str | None,
) -> RecordedRun:
    """Runs a resolved configuration, inside a flow; for the other arguments see `softgrpo_flow`."""
    changes = find_changes(config)  # which tell of debug where the configuration has all settings one by one
    tags = [config.data.dataset, config.policy.size, *(["debug"] if changes.debug else [])]
    tag_run(*tags, name=flow_run_name(config, changes, until))
    check_dataset(config)
    nodes, repeated = plan(config, until), check_force(force)
    if check:
        log_preflight_notes(config, until)
    with interruptible(TerminationSignal), mark_alive(output), open_executor(parallel, dask) as executor:
        return execute(nodes, config, repeated, output, from_run, executor=executor)


def with_body(form: Flow[P, R], body: Callable[[], R]) -> Flow[P, R]:
    """Returns a flow that Prefect shows like another, and that has no form to resolve.

    Args:
        form: The flow of the deployments: its name and its parameters, which Prefect shows and which could be given to it again.
        body: What runs instead of its function.
    """

    @wraps(form.fn)
    def flow_function(*_: P.args, **__: P.kwargs) -> R:
        return body()

    return Flow(fails_readably(flow_function), name=form.name, flow_run_name=form.flow_run_name)


@flow(name="softgrpo", flow_run_name="{dataset} {size}")
@fails_readably
def softgrpo_flow(
    dataset: str = "ml-100k",
    data_path: Path | None = None,
    size: Size = "tiny",
    until: StageName = "test",
    debug: bool = False,
    recallers: list[str] | None = None,
    frequent: FrequentSettings | None = None,
    overrides: dict[str, Any] | None = None,
    config: Path | list[Path] | None = None,
    force: list[AnyStage] | None = None,
    from_run: str | None = None,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> RecordedRun:
    """Learns how much to trust each recaller for each user: recall -> data -> check -> gates -> sft -> grpo -> test.

    Args:
        dataset: Name of the dataset; its preset is used if there is one.
        data_path: Folder that holds a folder for each dataset, on the machine that runs the flow. Empty: SOFTGRPO_DATA of the
            worker, then the folder data.
        size: Size of the language model.
        until: Last stage wanted.
        debug: A small subset of the data, within about a minute.
        recallers: The pool, RecBole models by name. None: the preset's.
        frequent: The settings that are changed most often; a field that is left empty takes the preset's value.
        overrides: All other settings by dotted path, for example {"sft.learning_rate": 1e-4}.
        config: YAML file of settings as `softgrpo config` prints them, on the machine that runs the flow, or several, of which a
            later one wins; fields and overrides come before them.
        force: Stages to repeat even if they are stored.
        from_run: Id of an MLflow run, of a pipeline or of a stage: its stages are used for those before the last one wanted.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages are run.
    """
    tag_run(dataset, size, *(["debug"] if debug else []))
    form_settings = gather_overrides(
        dataset, size, overrides, frequent=frequent, config=config, data_path=data_path, recallers=recallers
    )
    resolved = resolve(dataset, size, "debug" if debug else "full", form_settings)
    repeated = tuple(force or ())
    return run_softgrpo(resolved, until, repeated, output, from_run, check=check, parallel=parallel, dask=dask)
