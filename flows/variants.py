"""Several variants of one experiment, each a whole pipeline, in one comparison: pools of recallers, ablations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.compare import ComparedRuns, differing_settings
from flows.recipe import begin, execute, tell_notes
from flows.report_page import FOLDER
from flows.summary import table_markdown
from softgrpo.config import ExperimentConfig
from softgrpo.evaluation import FOCUS
from softgrpo.local_store import write_atomic
from softgrpo.pipeline import RunResult, plan
from tasks.crew import opened
from tasks.groups import Member, group_run, members, publish_table, publish_text
from tasks.runs import flatten
from tasks.store import ArtifactStore


@flow(name="variant", flow_run_name="{name}", validate_parameters=False)
def variant_flow(name: str, config: ExperimentConfig, output: Path, group: str) -> RunResult:
    """Runs the whole pipeline for one variant; what an earlier one has made is reused.

    Args:
        name: Name of the variant.
        config: Its configuration.
        output: Folder of all that is written.
        group: MLflow run of the comparison.
    """
    return execute(plan(config), config, output=output, member=Member(group, name))


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
    settings_of: Mapping[str, ExperimentConfig],
    results: Mapping[str, RunResult],
) -> ComparedRuns:
    """Puts all variants into one table, and that into MLflow and on a page of Prefect's."""
    from softgrpo.evaluation.runs import EvaluatedRun, compare_runs
    from softgrpo.evaluation.words import least_p, verdict

    runs, k = store.runs, config.fusion.k
    evaluated = [EvaluatedRun.read(variant, result.folders["test"]) for variant, result in results.items()]
    table = compare_runs(evaluated, FOCUS, f"ndcg@{k}", config.evaluation, config.seed)
    rows = {row["method"]: {str(name): cell for name, cell in row.items()} for row in table.to_dict("records")}
    least = least_p(table, config.evaluation.bootstrap)
    first, *others = results
    verdicts = tuple(verdict(rows[f"{variant}/{FOCUS}"], "vs_first", first, k, least) for variant in others)
    known = members(runs, group)
    inside = {variant: known[variant] for variant in results}
    link = runs.tracking.comparison_link(list(inside.values()))
    main = [f"{metric}@{k}" for metric in ("ndcg", "recall", "hit")]
    runs.metrics(group, {f"{method}/{metric}": row[metric] for method, row in rows.items() for metric in main})
    sentences = "\n".join(f"- {sentence}" for sentence in verdicts)
    page = f"{sentences}\n\n{table_markdown(table)}\n\nMLflow: {link or runs.tracking.run_link(group)}"
    publish_table(runs, group, table, page, "comparison")
    create_markdown_artifact(page, key=kind, description=", ".join(results))
    settings = {variant: flatten(settings_of[variant].model_dump(mode="json")) for variant in results}
    references = {"vs_single": f"the best single recaller of {first}", "vs_first": f"SofT-GRPO of {first}"}
    compared = ComparedRuns(table, verdicts, k, link, differing_settings(settings), references)
    return replace(compared, page=_show_page(store, group, f"{config.data.dataset}: {kind}", compared, inside))


def _show_page(store: ArtifactStore, group: str, title: str, compared: ComparedRuns, inside: Mapping[str, str]) -> Path:
    """Writes the comparison as an HTML page, to MLflow's run of the group and beside the reports of runs."""
    names = {label: f"MLflow run {run_id}" for label, run_id in inside.items()}
    note = (
        "Only SofT-GRPO of each variant gets a p-value here, Holm-corrected; the others are tested in their own report."
    )
    page = compared.html(title, names, note)
    publish_text(store.runs, group, page, "comparison.html")
    path = store.local.root.parent / FOLDER / f"{group}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return path
