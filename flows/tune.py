"""The Prefect flow `tune`: Optuna looks for the settings of SofT-GRPO that are best on validation windows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.trial import TrialState
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal

from softgrpo.common.artifacts import CURVES
from softgrpo.common.interruption import interruptible
from softgrpo.config import ExperimentConfig
from softgrpo.errors import TrainingError
from softgrpo.flows.form import FrequentSettings, check_dataset, gather_overrides, tag_run
from softgrpo.flows.pipeline import Size, begin, execute, log_preflight_notes
from softgrpo.flows.results.failed_runs import fails_readably
from softgrpo.flows.results.report_page import write_group_page
from softgrpo.flows.results.tune_page import StudyParts, study_html, study_page, study_sentences
from softgrpo.flows.runtime.lost_runs import mark_alive
from softgrpo.flows.study import (
    REASON,
    TrialWatch,
    best_trial,
    count_done,
    next_trial,
    open_study,
    recover,
    report,
    trial_name,
    trial_table,
)
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import RunResult
from softgrpo.pipeline.tuning import (
    STAGE,
    SearchSpace,
    as_overrides,
    plan_study,
    study_name,
    validation_ndcg,
    with_values,
)
from softgrpo.presets.changes import find_changes
from softgrpo.presets.settings import as_flags
from softgrpo.reporting import Pruned
from softgrpo.tasks.executors import Executor, open_executor
from softgrpo.tasks.tracking.descriptions import plain
from softgrpo.tasks.tracking.groups import Member, describe, group_run, members, publish_table, publish_text
from softgrpo.tasks.tracking.run_names import flow_run_name
from softgrpo.tasks.tracking.store import ArtifactStore

KIND = "tune"
OBJECTIVE = "best_validation_ndcg"


@dataclass(frozen=True)
class Tuned:
    """What a study found.

    Attributes:
        study: Its name.
        best: The best settings by dotted path.
        value: Validation NDCG that they reached.
        trials: See `softgrpo.flows.study.trial_table`.
        command: The command that runs the whole pipeline with them.
        link: Where MLflow shows the study.
        final: The whole pipeline with them, None where it was not asked for.
        k: Cut-off of the NDCG.
        page: The HTML page.
    """

    study: str
    best: dict[str, float]
    value: float
    trials: pd.DataFrame
    command: str
    link: str
    final: RunResult | None
    k: int
    page: Path

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the study showed, see `softgrpo.flows.results.tune_page.study_sentences`."""
        return study_sentences(self.trials, self.best, self.k)


@flow(name="trial", flow_run_name="{name}", validate_parameters=False)
@fails_readably
def trial_flow(
    name: str, trial: optuna.Trial, config: ExperimentConfig, output: Path, group: str, executor: Executor
) -> float | None:
    """Trains one trial and tells the study how it ended.

    Args:
        name: Name of the run.
        trial: The trial.
        config: The configuration with the settings that are tried.
        output: Folder of all that is written.
        group: MLflow run of the study.
        executor: Runs the stages.

    Returns:
        The best validation NDCG behind the starting point, None if the trial was pruned or diverged.
    """
    watch = TrialWatch(trial, config.grpo.num_train_epochs)
    try:
        member = Member(group, name, watch)
        result = execute(plan(config, STAGE), config, output=output, member=member, executor=executor)
    except (Pruned, TrainingError) as reason:  # a training that diverged is a result too: these settings are bad
        get_run_logger().info("%s: ended early: %s", name, reason)
        trial.set_user_attr(REASON, str(reason))
        trial.study.tell(trial, state=TrialState.PRUNED)
        return None
    except BaseException:  # broad: Ctrl-C too must not leave a trial that seems to run; it goes on to the caller
        trial.study.tell(trial, state=TrialState.FAIL)  # tried again by the next run
        raise
    reached = validation_ndcg(json.loads((result.folders[STAGE] / CURVES).read_text(encoding="utf-8")))
    report(trial, reached)
    value = max(reached.values())
    trial.study.tell(trial, value)
    get_run_logger().info("%s: validation NDCG %.4f", name, value)
    return value


@flow(name="tuned", flow_run_name="{name}", validate_parameters=False)
@fails_readably
def final_flow(name: str, config: ExperimentConfig, output: Path, group: str, executor: Executor) -> RunResult:
    """Runs the whole pipeline with the settings that were found."""
    return execute(plan(config), config, output=output, member=Member(group, name), executor=executor)


@flow(name="tune", flow_run_name="{dataset} {size}")
@fails_readably
def tune_flow(
    dataset: str = "ml-100k",
    data_path: Path | None = None,
    size: Size = "tiny",
    trials: int = 20,
    final: bool = True,
    debug: bool = False,
    frequent: FrequentSettings | None = None,
    overrides: dict[str, Any] | None = None,
    config: Path | list[Path] | None = None,
    space: SearchSpace | None = None,
    output: Path = Path("outputs"),
    check: bool = True,
    parallel: int | None = None,
    dask: str | None = None,
) -> Tuned:
    """Looks for the settings of SofT-GRPO that reach the best NDCG on validation windows; the test windows are not looked at.

    The study goes on where it was when it is run again. What is before SofT-GRPO is trained once.

    Args:
        dataset: Name of the dataset.
        data_path: Folder that holds a folder for each dataset, on the machine that runs the flow. Empty: SOFTGRPO_DATA of the
            worker, then the folder data.
        size: Size of the language model.
        trials: Trials wanted in total, those of earlier runs of the same study included.
        final: Run the whole pipeline with the best settings, test stage included.
        debug: A small subset of the data.
        frequent: The settings that are changed most often; a field that is left empty takes the preset's value.
        overrides: All other settings by dotted path; the search starts from the tuned ones among them.
        config: YAML file of settings as `softgrpo config` prints them, on the machine that runs the flow, or several, of which a
            later one wins; fields and overrides come before them.
        space: The ranges; nothing takes the usual ones.
        output: Folder of all that is written, on the machine that runs the flow.
        check: Look for all that would fail later before anything is trained; the command has done so when it starts the flow.
        parallel: Recallers trained at once, each in a process with its share of the cores; nothing takes one for every two cores.
        dask: Address of the scheduler of a Dask cluster, such as tcp://127.0.0.1:8786, on which the stages are run, and as many
            trials at once as it has workers.
    """
    tags = [dataset, size, *(["debug"] if debug else [])]
    tag_run(*tags)
    ranges, stage = space or SearchSpace(), "debug" if debug else "full"
    form_settings = gather_overrides(dataset, size, overrides, frequent=frequent, config=config, data_path=data_path)
    start = plan_study(dataset, size, stage, form_settings, trials, ranges)
    tag_run(*tags, name=flow_run_name(start, find_changes(start)))
    check_dataset(start)
    if check:
        log_preflight_notes(start)
    store = begin(start, output)
    name = study_name(plan(start, STAGE), start, ranges)
    with (
        interruptible(TerminationSignal),
        mark_alive(output),
        open_executor(parallel, dask) as executor,
        store.local.lock(f"study-{name}"),
    ):  # who holds it knows that trials which say they are running are lost
        study = open_study(name, output, store.local)
        settings = {"trials": trials, "space": ranges.model_dump(), **start.model_dump(mode="json")}
        with group_run(store.runs, KIND, name, settings, resume=True) as group:
            _search(study, start, ranges, trials, output, group, executor)
            best = best_trial(study)
            best_settings, value = as_overrides(best.params), float(best.values[0])
            command = command_line(dataset, stage, size, form_settings | best_settings, output)
            tried = trial_table(study, members(store.runs, group))
            link = store.runs.tracking.run_link(group)
            place = f"[{group}]({link})" if store.runs.tracking.has_pages else f"`{link}`"
            page = study_page(tried, best_settings, start.fusion.k, command, place)
            _publish(store, group, tried, best_settings, value, command, page)
            parts = StudyParts(name, group, tried, best_settings, start.fusion.k, command)
            html = _show_page(store, f"{dataset} {size}: {len(tried)} trials", parts, link)
            chosen = with_values(start, best.params)
            final_name = f"tuned by {trial_name(best.number)}"
            result = final_flow(final_name, chosen, output, group, executor) if final else None
    return Tuned(name, best_settings, value, tried, command, link, result, start.fusion.k, html)


def command_line(dataset: str, stage: str, size: str, overrides: Mapping[str, Any], output: Path) -> str:
    """Returns the command that runs the whole pipeline with these settings."""
    words = ["softgrpo", "run", dataset, stage, size, *as_flags(overrides)]
    return shlex.join(words if output == Path("outputs") else [*words, "--output", str(output)])


def _search(
    study: optuna.Study,
    config: ExperimentConfig,
    space: SearchSpace,
    trials: int,
    output: Path,
    group: str,
    executor: Executor,
) -> None:
    """Runs trials until the study has as many as wanted, first those that were cut off."""
    recover(study)
    study.enqueue_trial(space.start(config), skip_if_exists=True)

    def run(trial: optuna.Trial) -> None:
        trial_flow(trial_name(trial.number), trial, with_values(config, trial.params), output, group, executor)

    while (left := trials - count_done(study)) > 0:
        count = min(left, executor.pipelines_at_once)
        executor.map_pipelines(run, [next_trial(study, space.ranges(config), config.seed) for _ in range(count)])


def _publish(
    store: ArtifactStore,
    group: str,
    tried: pd.DataFrame,
    best_settings: Mapping[str, float],
    value: float,
    command: str,
    page: str,
) -> None:
    """Writes down what was found: to MLflow's run of the study, and on a page of Prefect's."""
    runs = store.runs
    as_yaml = yaml.safe_dump(dict(best_settings), sort_keys=False)
    chosen = {f"best/{path}": best_value for path, best_value in best_settings.items()}
    runs.metrics(group, {OBJECTIVE: value, "trials": len(tried), **chosen})
    publish_table(runs, group, tried, page, "trials")
    publish_text(runs, group, as_yaml, "best.yaml")
    rows = [f"| {plain(path)} | {best_value:g} |" for path, best_value in best_settings.items()]
    settings = "\n".join(["| best settings | value |", "|---|---|", *rows])
    describe(
        runs,
        group,
        f"Best NDCG on validation windows of {len(tried)} trials: {value:.4f}.\n\n{settings}\n\n`{command}`",
    )
    create_markdown_artifact(page, key=KIND, description=f"{len(tried)} trials")


def _show_page(store: ArtifactStore, title: str, parts: StudyParts, link: str) -> Path:
    """Writes the study as an HTML page, to its run in MLflow and beside the reports of runs, and returns the second."""
    page = study_html(title, parts, link if store.runs.tracking.has_pages else None)
    publish_text(store.runs, parts.run_id, page, "study.html")
    return write_group_page(store.local, parts.run_id, page)
