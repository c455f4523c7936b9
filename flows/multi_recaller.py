"""The Prefect flow `multi-recaller`: the pipeline for several pools of recallers, and one comparison of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.compare import FOCUS, ComparedRuns
from flows.recipe import Size, begin, execute, tell_notes
from flows.summary import table_markdown
from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.report import verdict
from softgrpo.evaluation.runs import EvaluatedRun, compare_runs
from softgrpo.pipeline import RunResult, plan
from softgrpo.pools import resolve_pools
from tasks.crew import opened
from tasks.groups import Member, group_run, members, publish_table
from tasks.store import ArtifactStore

KIND = "multi-recaller"


@flow(name="pool", flow_run_name="{name}", validate_parameters=False)
def pool_flow(name: str, config: ExperimentConfig, output: Path, group: str) -> RunResult:
    """Runs the whole pipeline for one pool; what an earlier pool has made is reused.

    Args:
        name: Name of the pool.
        config: The configuration with its recallers.
        output: Folder of all that is written.
        group: MLflow run of the comparison.
    """
    return execute(plan(config), config, output=output, member=Member(group, name))


@flow(name="multi-recaller", flow_run_name="{dataset}-{size}")
def multi_recaller_flow(
    dataset: str = "ml-100k",
    size: Size = "tiny",
    pools: list[list[str]] | None = None,
    overrides: dict[str, Any] | None = None,
    debug: bool = False,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> ComparedRuns:
    """Runs the pipeline for each pool of recallers and compares them on the same test windows. Each recaller is trained once.

    Args:
        dataset: Name of the dataset.
        size: Size of the language model.
        pools: Lists of RecBole models by name; the first is what the others are compared with. Nothing takes the preset's
            recallers all together and in pairs.
        overrides: Settings by dotted path, for all pools; those of a recaller count in the pools that have it.
        debug: A small subset of the data.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages of all pools are run.
    """
    whole, configs = resolve_pools(dataset, size, "debug" if debug else "full", pools, overrides)
    if check:
        tell_notes(whole)
    store = begin(whole, output)
    name = f"{dataset} {size} {len(configs)} pools"
    settings = {"pools": list(configs), **whole.model_dump(mode="json")}
    with opened(parallel, dask) as crew, group_run(store.runs, KIND, name, settings) as group:
        results = crew.each(lambda pool: pool_flow(pool, configs[pool], output, group), configs)
        return _compare(store, group, whole, dict(zip(configs, results, strict=True)))


def _compare(
    store: ArtifactStore, group: str, config: ExperimentConfig, results: Mapping[str, RunResult]
) -> ComparedRuns:
    """Puts all pools into one table, and that into MLflow and on a page of Prefect's."""
    runs, k = store.runs, config.fusion.k
    evaluated = [EvaluatedRun.read(pool, result.folders["test"]) for pool, result in results.items()]
    table = compare_runs(evaluated, FOCUS, f"ndcg@{k}", config.evaluation, config.seed)
    rows = {row["method"]: {str(name): cell for name, cell in row.items()} for row in table.to_dict("records")}
    tests = int(table[["vs_single_p", "vs_first_p"]].notna().to_numpy().sum())
    smallest_p = 2 * tests / (config.evaluation.bootstrap + 1)
    first, *others = results
    verdicts = tuple(verdict(rows[f"{pool}/{FOCUS}"], "vs_first", first, k, smallest_p) for pool in others)
    inside = members(runs, group)
    link = runs.tracking.comparison_link([inside[pool] for pool in results])
    main = [f"{metric}@{k}" for metric in ("ndcg", "recall", "hit")]
    runs.metrics(group, {f"{method}/{metric}": row[metric] for method, row in rows.items() for metric in main})
    sentences = "\n".join(f"- {sentence}" for sentence in verdicts)
    page = f"{sentences}\n\n{table_markdown(table)}\n\n{link or runs.tracking.run_link(group)}"
    publish_table(runs, group, table, page, "comparison")
    create_markdown_artifact(page, key=KIND, description=", ".join(results))
    return ComparedRuns(table, verdicts, k, link)
