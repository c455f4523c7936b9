"""The Prefect flows of several variants of one experiment: pools of recallers (`multi-recaller`) and ablations (`ablate`).

Each variant is a whole pipeline; one comparison shows all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal

from softgrpo.common.interruption import interruptible
from softgrpo.common.redaction import passwords_hidden
from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.summary import FOCUS
from softgrpo.flows.form import FrequentSettings, check_dataset, gather_overrides, tag_run
from softgrpo.flows.pipeline import Size, begin, execute, log_preflight_notes
from softgrpo.flows.results.comparison import ComparedRuns
from softgrpo.flows.results.differences import differing, differing_settings
from softgrpo.flows.results.failed_runs import fails_readably
from softgrpo.flows.results.prefect_page import group_page
from softgrpo.flows.results.report_page import write_group_page
from softgrpo.flows.runtime.console import VERDICT_LOGGER
from softgrpo.flows.runtime.lost_runs import mark_alive
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import RunResult
from softgrpo.presets.ablations import REFERENCE, resolve_ablation
from softgrpo.presets.changes import find_changes
from softgrpo.presets.pools import resolve_pools
from softgrpo.tasks.executors import Executor, open_executor
from softgrpo.tasks.tracking.descriptions import plain
from softgrpo.tasks.tracking.groups import Member, describe, group_run, members, publish_table, publish_text
from softgrpo.tasks.tracking.pages import run_page
from softgrpo.tasks.tracking.run_names import flow_run_name
from softgrpo.tasks.tracking.runs import flatten
from softgrpo.tasks.tracking.store import ArtifactStore

POOLS = "multi-recaller"
ABLATE = "ablate"
Ablation = Literal[
    "training",
    "prior",
    "merge",
    "normalisation",
    "ratio",
    "sampling",
    "tau",
    "noise",
    "reward",
    "top_p",
    "generations",
    "advantages",
    "windows",
    "learning",
    "prompt",
    "features",
    "history",
]
"""The names in `softgrpo.presets.ablations`, which a form shows as a list to choose from."""


@flow(name="variant", flow_run_name="{name}", validate_parameters=False)
@fails_readably
def variant_flow(name: str, config: ExperimentConfig, output: Path, group: str, executor: Executor) -> RunResult:
    """Runs the whole pipeline for one variant; what an earlier one has made is reused.

    Args:
        name: Name of the variant.
        config: Its configuration.
        output: Folder of all that is written.
        group: MLflow run of the comparison.
        executor: Runs the stages.
    """
    return execute(plan(config), config, output=output, member=Member(group, name), executor=executor)


@passwords_hidden()
def run_variants(
    kind: str,
    settings: Mapping[str, Any],
    whole: ExperimentConfig,
    configs: Mapping[str, ExperimentConfig],
    output: Path,
    *,
    check: bool,
    parallel: int | None,
    dask: str | None,
) -> ComparedRuns:
    """Runs all variants and compares them; call it inside a flow.

    Args:
        kind: What holds the variants together, e.g. `multi-recaller`.
        settings: What the MLflow run of the comparison tells besides the configuration.
        whole: A configuration with all that the variants need; its cut-off and bootstrap are the comparison's.
        configs: The configuration of each variant by its name; the first is what the others are compared with.
        output: Folder of all that is written.
        check: Look for all that would fail later before anything is trained.
        parallel: Recallers trained at once.
        dask: Address of a Dask cluster's scheduler.
    """
    if check:
        for config in dict.fromkeys([whole.model_dump_json(), *(each.model_dump_json() for each in configs.values())]):
            log_preflight_notes(ExperimentConfig.model_validate_json(config))
    store = begin(whole, output)
    name = f"{whole.data.dataset} {whole.policy.size} {len(configs)} {kind}"
    with (
        interruptible(TerminationSignal),
        mark_alive(output),
        open_executor(parallel, dask) as executor,
        group_run(store.runs, kind, name, {**settings, **whole.model_dump(mode="json")}) as group,
    ):
        results = executor.map_pipelines(
            lambda variant: variant_flow(variant, configs[variant], output, group, executor), configs
        )
        return _compare(store, group, kind, whole, configs, dict(zip(configs, results, strict=True)))


def _compare(
    store: ArtifactStore,
    group: str,
    kind: str,
    config: ExperimentConfig,
    configs: Mapping[str, ExperimentConfig],
    results: Mapping[str, RunResult],
) -> ComparedRuns:
    """Puts all variants into one table, and that into MLflow and on a page of Prefect's."""
    runs, known = store.runs, members(store.runs, group)
    inside = {variant: known[variant] for variant in results}
    compared = _compared(config, configs, results, runs.tracking.comparison_link(list(inside.values())))
    _publish(store, group, kind, compared, inside)
    for sentence in (*compared.changes, *compared.verdicts):
        logging.getLogger(VERDICT_LOGGER).info("%s", sentence)
    return replace(compared, page=_show_page(store, group, f"{config.data.dataset}: {kind}", compared, inside))


def _compared(
    config: ExperimentConfig,
    configs: Mapping[str, ExperimentConfig],
    results: Mapping[str, RunResult],
    link: str | None,
) -> ComparedRuns:
    """Compares all variants with the first one."""
    from softgrpo.evaluation.across_runs import EvaluatedRun, compare_runs
    from softgrpo.evaluation.formatting import least_p, table_rows, verdict

    k = config.fusion.k
    evaluated = [EvaluatedRun.read(variant, result.folders["test"]) for variant, result in results.items()]
    table = compare_runs(evaluated, FOCUS, f"ndcg@{k}", config.evaluation, config.seed)
    rows = {row["method"]: row for row in table_rows(table)}
    least = least_p(table, config.evaluation.bootstrap)
    first, *others = results
    verdicts = tuple(verdict(rows[f"{variant}/{FOCUS}"], "vs_first", first, k, least) for variant in others)
    settings = {variant: flatten(configs[variant].model_dump(mode="json")) for variant in results}
    references = {"vs_single": f"the best single recaller of {first}", "vs_first": f"SofT-GRPO of {first}"}
    different, changes = differing_settings(settings), differing(settings)
    return ComparedRuns(table, verdicts, k, link, different, references, changes=changes)


def _publish(store: ArtifactStore, group: str, kind: str, compared: ComparedRuns, inside: Mapping[str, str]) -> None:
    """Writes metrics, table and description of the comparison to MLflow's run of the group, and its page to Prefect."""
    from softgrpo.evaluation.formatting import table_rows

    runs, k = store.runs, compared.k
    rows = {row["method"]: row for row in table_rows(compared.table)}
    main = [f"{metric}@{k}" for metric in ("ndcg", "recall", "hit")]
    runs.metrics(group, {f"{method}/{metric}": row[metric] for method, row in rows.items() for metric in main})
    place = f"[MLflow]({compared.link})" if compared.link else f"`{runs.tracking.run_link(group)}`"
    page = group_page(compared.verdicts, compared.changes, compared.table, k, place)
    publish_table(runs, group, compared.table, page, "comparison")
    lines = [f"| {plain(variant)} | {rows[f'{variant}/{FOCUS}'][f'ndcg@{k}']:.4f} |" for variant in inside]
    small = "\n".join([f"| {kind} | NDCG@{k} of SofT-GRPO multi |", "|---|---|", *lines])
    words = "\n".join(f"- {plain(sentence)}" for sentence in compared.verdicts)
    pages = [(variant, run_page(runs.tracking.experiment_id, run_id)) for variant, run_id in inside.items()]
    runs_of = ", ".join(f"[{plain(variant)}]({address})" for variant, address in pages)
    describe(runs, group, f"{words}\n\n{small}\n\nRuns: {runs_of}")
    create_markdown_artifact(page, key=kind, description=", ".join(inside))


def _show_page(store: ArtifactStore, group: str, title: str, compared: ComparedRuns, inside: Mapping[str, str]) -> Path:
    """Writes the comparison as an HTML page, to MLflow's run of the group and beside the reports of runs."""
    names = {label: f"MLflow run {run_id}" for label, run_id in inside.items()}
    note = (
        "Only SofT-GRPO of each variant gets a p-value here, Holm-corrected; the others are tested in their own report."
    )
    page = compared.html(title, names, note)
    publish_text(store.runs, group, page, "comparison.html")
    return write_group_page(store.local, group, page)


@flow(name="multi-recaller", flow_run_name="{dataset} {size}")
@fails_readably
def multi_recaller_flow(
    dataset: str = "ml-100k",
    data_path: Path | None = None,
    size: Size = "tiny",
    debug: bool = False,
    pools: list[list[str]] | None = None,
    frequent: FrequentSettings | None = None,
    overrides: dict[str, Any] | None = None,
    config: Path | list[Path] | None = None,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> ComparedRuns:
    """Runs the pipeline for each pool of recallers and compares them on the same test windows. Each recaller is trained once.

    Args:
        dataset: Name of the dataset.
        data_path: Folder that holds a folder for each dataset, on the machine that runs the flow. Empty: SOFTGRPO_DATA of the
            worker, then the folder data.
        size: Size of the language model.
        debug: A small subset of the data.
        pools: Lists of RecBole models by name; the first is what the others are compared with. Nothing takes the preset's
            recallers all together and in pairs.
        frequent: The settings that are changed most often; a field that is left empty takes the preset's value.
        overrides: All other settings by dotted path, for all pools; those of a recaller count in the pools that have it.
        config: YAML file of settings as `softgrpo config` prints them, on the machine that runs the flow, or several, of which a
            later one wins; fields and overrides come before them.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages of all pools are run.
    """
    tags = [dataset, size, *(["debug"] if debug else [])]
    tag_run(*tags)
    form_settings = gather_overrides(dataset, size, overrides, frequent=frequent, config=config, data_path=data_path)
    whole, configs = resolve_pools(dataset, size, "debug" if debug else "full", pools, form_settings)
    tag_run(*tags, name=flow_run_name(whole, find_changes(whole)))
    check_dataset(whole)
    settings = {"pools": list(configs)}
    return run_variants(POOLS, settings, whole, configs, output, check=check, parallel=parallel, dask=dask)


@flow(name="ablate", flow_run_name="{name}, {dataset} {size}")
@fails_readably
def ablate_flow(
    name: Ablation = "training",
    dataset: str = "ml-100k",
    data_path: Path | None = None,
    size: Size = "tiny",
    debug: bool = False,
    frequent: FrequentSettings | None = None,
    overrides: dict[str, Any] | None = None,
    config: Path | list[Path] | None = None,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> ComparedRuns:
    """Runs the pipeline as it is and once for each variant of an ablation. Stages that a variant does not touch are made once.

    Args:
        name: What varies, see `softgrpo.presets.ablations`.
        dataset: Name of the dataset.
        data_path: Folder that holds a folder for each dataset, on the machine that runs the flow. Empty: SOFTGRPO_DATA of the
            worker, then the folder data.
        size: Size of the language model.
        debug: A small subset of the data.
        frequent: The settings that are changed most often; a field that is left empty takes the preset's value.
        overrides: All other settings by dotted path, for all variants.
        config: YAML file of settings as `softgrpo config` prints them, on the machine that runs the flow, or several, of which a
            later one wins; fields and overrides come before them.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages are run.
    """
    tags = [dataset, size, name, *(["debug"] if debug else [])]
    tag_run(*tags)
    form_settings = gather_overrides(dataset, size, overrides, frequent=frequent, config=config, data_path=data_path)
    configs = resolve_ablation(name, dataset, size, "debug" if debug else "full", form_settings)
    settings = {"ablation": name, "variants": list(configs)}
    whole = configs[REFERENCE]
    tag_run(*tags, name=f"{name}, {flow_run_name(whole, find_changes(whole))}")
    check_dataset(whole)
    return run_variants(ABLATE, settings, whole, configs, output, check=check, parallel=parallel, dask=dask)
