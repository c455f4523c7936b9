"""What a finished run returns and shows: links, and its page in Prefect."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softgrpo.common.redaction import without_password
from softgrpo.evaluation.summary import read_summary
from softgrpo.flows.results.finished import costs_of_stages
from softgrpo.flows.results.prefect_page import FIGURE, run_page
from softgrpo.flows.results.recorded import RecordedRun
from softgrpo.flows.results.report_page import PAGE, RunFacts, complete, write_page
from softgrpo.pipeline.run import RunResult
from softgrpo.tasks.stage import Progress
from softgrpo.tasks.tracking.groups import publish_text
from softgrpo.tasks.tracking.lookup import commit_of, read_run, started_at
from softgrpo.tasks.tracking.registry import model_name
from softgrpo.tasks.tracking.store import MODEL_STAGES


def publish_page(progress: Progress, output: Path) -> Path:
    """Writes the report of a run that reached the stage `test`, with its id, date and command on it, here and to MLflow.

    Args:
        progress: The run.
        output: Folder of all that is written.

    Returns:
        The path of the HTML page.
    """
    tracking, folder = progress.store.runs.tracking, progress.folders()["test"]
    run = read_run(progress.store, progress.parent_run)
    link = tracking.run_link(progress.parent_run)
    stages = {name: reference["run_id"] for name, reference in progress.references.items()}
    costs = costs_of_stages(progress.store, stages)
    facts = RunFacts(
        progress.config, started_at(run), progress.parent_run, str(run.info.run_name), commit_of(run), link, costs
    )
    for name, text in complete(folder, facts).items():
        publish_text(progress.store.runs, progress.parent_run, text, name)
    return write_page(folder, output, facts)


def recorded(progress: Progress, table: pd.DataFrame | None, page: Path | None) -> RecordedRun:
    """Returns what a finished run gives back.

    Args:
        progress: The run.
        table: See `RunResult.table`.
        page: Its report, None before the stage `test`.
    """
    return RecordedRun(
        table,
        progress.folders(),
        progress.reused(),
        links(progress, page),
        run_id=progress.parent_run,
        tracking=without_password(progress.store.runs.tracking.uri),
    )


def links(progress: Progress, page: Path | None) -> dict[str, str]:
    """Returns where to look further, label to address or path: the MLflow run, the table of all runs, the report, the models."""
    folders = progress.folders()
    tracking = progress.store.runs.tracking
    places = {"MLflow run": tracking.run_link(progress.parent_run)}
    if page is not None:
        if (view := tracking.view_link(progress.config.fusion.k)) is not None:
            places["all runs"] = view
        places["report"] = str(page)
    return places | {f"{name} model": str(folders[name]) for name in sorted(MODEL_STAGES & set(folders), reverse=True)}


def verdict_of(result: RunResult) -> tuple[str, ...]:
    """Returns what a run showed, in sentences; nothing where it ended before the stage test."""
    summary = read_summary(result.folders["test"]) if "test" in result.folders else None
    return summary.sentences if summary else ()


def result_page(progress: Progress, result: RecordedRun) -> str:
    """Returns the page that Prefect shows with a finished run."""
    test = result.folders.get("test")
    figure = None if test is None else test / FIGURE
    return run_page(
        result.table,
        None if test is None else read_summary(test),
        figure if figure is not None and figure.is_file() else None,
        _places(progress, result),
        [name for name in result.folders if name not in result.reused],
        result.reused,
    )


def _places(progress: Progress, result: RecordedRun) -> dict[str, str]:
    """Returns where to look further as Markdown: pages of MLflow where a server shows them, else files and commands."""
    tracking = progress.store.runs.tracking
    models = [name for name in sorted(MODEL_STAGES) if name in result.folders]
    names = {stage: model_name(progress.config, stage) for stage in models}
    if tracking.has_pages:
        places = {"MLflow run": f"[{result.run_id}]({result.links['MLflow run']})"}
        if "report" in result.links:
            places["report"] = (
                f"[{PAGE}]({tracking.artifact_link(result.run_id, PAGE)}), the file `{result.links['report']}`"
            )
        registered = {stage: f"[{name}]({tracking.model_link(name)})" for stage, name in names.items()}
    else:
        places = {label: f"`{result.links[label]}`" for label in ("MLflow run", "report") if label in result.links}
        registered = {stage: f"`{name}`" for stage, name in names.items()}
    words = {"sft": "SFT", "grpo": "SofT-GRPO"}
    return places | {
        f"{words[stage]}, registered model": f"{registered[stage]}, in `{result.folders[stage]}`" for stage in models
    }
