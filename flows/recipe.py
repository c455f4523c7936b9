"""The Prefect flow `softgrpo`. It imports Prefect, so `flows.environment.prepare` comes first where the environment matters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.console import let_runs_speak
from flows.environment import check_writable
from flows.summary import links, summary_markdown
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline import RunResult, check_force, plan, read_table
from softgrpo.preflight import preflight
from softgrpo.presets import resolve
from softgrpo.stages import Node
from tasks.pipeline_run import note_node, open_store, pipeline_run
from tasks.stage import Progress, advance

StageName = Literal["recall", "data", "sft", "grpo", "test", "debug"]


def execute(
    nodes: Sequence[Node], config: ExperimentConfig, force: tuple[str, ...] = (), output: Path = Path("outputs")
) -> RunResult:
    """Brings a plan to its end, inside a flow: each node is found or run, verified, committed and noted.

    Nodes go one after another: RecBole keeps global state, and one training fills the cores.

    Args:
        nodes: The plan, every node behind its upstream nodes.
        config: The resolved configuration.
        force: Stages to repeat even if they are stored.
        output: Folder of all that is written.

    Raises:
        StoreError: Something cannot be written, or MLflow does not answer.
    """
    let_runs_speak()
    check_writable(output)
    store = open_store(config, output)
    name = f"{config.data.dataset} {config.policy.size} {nodes[-1].name}"
    with pipeline_run(store, config, nodes, name) as run_id:
        progress = Progress(config, store, run_id, force, output.resolve() / "records")
        for node in nodes:
            advance(progress, node)
            note_node(progress, node)
    result = RunResult(read_table(progress.folders()), progress.folders(), progress.reused(), links(progress))
    create_markdown_artifact(
        summary_markdown(result.table, result.links, result.reused), key="comparison", description=name
    )
    return result


@flow(name="softgrpo", flow_run_name="{dataset}-{size}-{stage}")
def softgrpo_flow(
    dataset: str = "ml-100k",
    size: Literal["tiny", "mini", "small", "large"] = "tiny",
    stage: StageName = "test",
    force: tuple[str, ...] = (),
    overrides: dict[str, Any] | None = None,
    output: Path = Path("outputs"),
    check: bool = True,
) -> RunResult:
    """Learns how much to trust each recaller for each user: recall -> data -> sft -> grpo -> test.

    Args:
        dataset: Name of the dataset; its preset is used if there is one.
        size: Size of the language model.
        stage: Last stage wanted; `debug` is everything on a small subset.
        force: Stages to repeat even if they are stored.
        overrides: Settings by dotted path, for example {"sft.learning_rate": 1e-4}.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
    """
    config = resolve(dataset, size, stage, overrides)
    until = "test" if stage == "debug" else stage
    nodes, force = plan(config, until), check_force(force)
    if check:
        for note in preflight(config, until):
            get_run_logger().warning("note: %s", note)
    return execute(nodes, config, force, output)
