"""Several variants of one experiment, each a whole pipeline, in one comparison: pools of recallers, ablations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal

from flows.pipeline import begin, execute, tell_notes
from flows.results.comparison import ComparedRuns
from flows.results.differences import differing, differing_settings
from flows.results.failed_runs import fails_readably
from flows.results.prefect_page import group_page
from flows.results.report_page import write_group_page
from flows.runtime.console import VERDICT_LOGGER
from softgrpo.common.interruption import interruptible
from softgrpo.common.redaction import passwords_hidden
from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.summary import FOCUS
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import RunResult
from tasks.executors import opened
from tasks.tracking.descriptions import plain
from tasks.tracking.groups import Member, describe, group_run, members, publish_table, publish_text
from tasks.tracking.pages import run_page
from tasks.tracking.runs import flatten
from tasks.tracking.store import ArtifactStore


@flow(name="variant", flow_run_name="{name}", validate_parameters=False)
@fails_readably
def variant_flow(name: str, config: ExperimentConfig, output: Path, group: str) -> RunResult:
    """Runs the whole pipeline for one variant; what an earlier one has made is reused.

    Args:
        name: Name of the variant.
        config: Its configuration.
        output: Folder of all that is written.
        group: MLflow run of the comparison.
    """
    return execute(plan(config), config, output=output, member=Member(group, name))


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
            tell_notes(ExperimentConfig.model_validate_json(config))
    store = begin(whole, output)
    name = f"{whole.data.dataset} {whole.policy.size} {len(configs)} {kind}"
    with (
        interruptible(TerminationSignal),
        opened(parallel, dask) as crew,
        group_run(store.runs, kind, name, {**settings, **whole.model_dump(mode="json")}) as group,
    ):
        results = crew.each(lambda variant: variant_flow(variant, configs[variant], output, group), configs)
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
