"""The Prefect flow `softgrpo`. It imports Prefect, so `flows.environment.prepare` comes first where the environment matters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.console import let_runs_speak
from flows.environment import check_writable
from flows.pipeline import RecordedRun
from flows.summary import publish_page, recorded, summary_markdown
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline import check_force, plan, read_table
from softgrpo.preflight import preflight
from softgrpo.presets import resolve
from softgrpo.pure_models import show_model
from softgrpo.stages import Node
from tasks.ahead import looking_ahead
from tasks.crew import current, opened
from tasks.groups import Member
from tasks.lineage import upstream_of
from tasks.pipeline_run import note_nodes, open_store, pipeline_run
from tasks.stage import Progress, unwatched
from tasks.store import ArtifactStore

Size = Literal["tiny", "mini", "small", "large"]
StageName = Literal["recall", "data", "check", "sft", "grpo", "test"]
Repeatable = Literal["split", "recall", "data", "check", "sft", "grpo", "test"]


def tell_notes(config: ExperimentConfig, until: str = "test") -> None:
    """Looks for all that would fail later, and logs what is worth a note.

    Raises:
        SoftGRPOError: Something would fail.
    """
    for note in preflight(config, until):
        get_run_logger().warning("note: %s", note)


def begin(config: ExperimentConfig, output: Path) -> ArtifactStore:
    """Lets the run be heard, and opens the store.

    Raises:
        StoreError: Something cannot be written, or MLflow does not answer.
    """
    let_runs_speak()
    check_writable(output)
    return open_store(config, output)


def execute(
    nodes: Sequence[Node],
    config: ExperimentConfig,
    force: tuple[str, ...] = (),
    output: Path = Path("outputs"),
    from_run: str | None = None,
    member: Member | None = None,
) -> RecordedRun:
    """Brings a plan to its end, inside a flow: each node is found or run, verified, committed and noted.

    Nodes go one after another, in this process, unless the flow has others at hand (`tasks.crew.opened`).

    Args:
        nodes: The plan, every node behind its upstream nodes.
        config: The resolved configuration.
        force: Stages to repeat even if they are stored.
        output: Folder of all that is written.
        from_run: MLflow run whose stages are used for those before the last one.
        member: Makes the run a member of a group, such as a trial of a study.

    Raises:
        ConfigError: `from_run` is unknown, or of another dataset or pool.
        StoreError: Something cannot be written, or MLflow does not answer.
    """
    store = begin(config, output)
    given = upstream_of(store, from_run, nodes, config) if from_run else {}
    name = member.name if member else f"{config.data.dataset} {config.policy.size} {nodes[-1].name}"
    watch = member.watch if member else unwatched
    expected = () if given else nodes
    with (
        looking_ahead(store, expected, config, force) as ahead,
        pipeline_run(store, config, nodes, name, member) as run_id,
    ):
        progress = Progress(config, store, run_id, force, output.resolve() / "records", watch, ahead)
        crew = current()
        found: list[Node] = []
        for piece in crew.waves(nodes):
            for node in piece:
                if node.name in given:
                    progress.references[node.name] = given[node.name]
                    get_run_logger().info("%s: taken from run %s", node.name, from_run)
            wanted = [node for node in piece if node.name not in given]
            if found and not all(map(progress.seems_stored, wanted)):
                note_nodes(progress, found)  # before what takes long, or fails
                found = []
            crew.advance(progress, wanted)
            for node in piece:
                found.append(node)
                if watch is unwatched:  # what a study tries is no result yet
                    show_model(output, config, node, progress.folders()[node.name])
        note_nodes(progress, found)
        page = publish_page(progress, output) if "test" in progress.references else None
    result = recorded(progress, read_table(progress.folders()), page)
    create_markdown_artifact(
        summary_markdown(result.table, result.links, result.reused), key="comparison", description=name
    )
    return result


@flow(name="softgrpo", flow_run_name="{dataset}-{size}-{until}")
def softgrpo_flow(
    dataset: str = "ml-100k",
    size: Size = "tiny",
    until: StageName = "test",
    recallers: list[str] | None = None,
    overrides: dict[str, Any] | None = None,
    force: list[Repeatable] | None = None,
    from_run: str | None = None,
    debug: bool = False,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> RecordedRun:
    """Learns how much to trust each recaller for each user: recall -> data -> check -> sft -> grpo -> test.

    Args:
        dataset: Name of the dataset; its preset is used if there is one.
        size: Size of the language model.
        until: Last stage wanted.
        recallers: The pool, RecBole models by name; nothing takes the preset's.
        overrides: Settings by dotted path, for example {"sft.learning_rate": 1e-4}.
        force: Stages to repeat even if they are stored.
        from_run: Id of an MLflow run, of a pipeline or of a stage: its stages are used for those before the last one wanted.
        debug: A small subset of the data, within about a minute.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages are run.
    """
    said = dict(overrides or {})
    if recallers is not None:
        said["recall.recallers"] = recallers
    config = resolve(dataset, size, "debug" if debug else "full", said)
    nodes, repeated = plan(config, until), check_force(tuple(force or ()))
    if check:
        tell_notes(config, until)
    let_runs_speak()
    with opened(parallel, dask):
        return execute(nodes, config, repeated, output, from_run)
