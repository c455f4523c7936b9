"""The job of `softgrpo run`, `standalone` and `pure`: one pipeline, checked before anything runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softgrpo.common.paths import stages_folder
from softgrpo.common.text import visible
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError
from softgrpo.flows.command.common import Job, print_json, print_notes
from softgrpo.flows.command.flags import add_settings
from softgrpo.flows.command.parser import Parser, add_json, add_output, add_workers
from softgrpo.flows.runtime.environment import check_output, check_servers, prepare_to_read
from softgrpo.flows.runtime.failures import OK
from softgrpo.stages.contract import ALL_STAGES, check_stage

if TYPE_CHECKING:
    from softgrpo.pipeline.run import RunResult


def add_pipeline_flags(parser: Parser, words: Sequence[str], *, with_mlflow: bool = True) -> None:
    """Adds the flags of a command that runs one pipeline.

    Args:
        parser: Of the command.
        words: The command line.
        with_mlflow: Offer what needs Prefect and MLflow too; else `from_run`, `parallel` and `dask` are None.
    """
    add_output(parser)
    if with_mlflow:
        parser.add_argument(
            "--from-run",
            "--from_run",
            metavar="RUN",
            help="MLflow run, of a pipeline or of a stage, whose stages are used for those before STAGE",
        )
        add_workers(parser)
    else:
        parser.set_defaults(from_run=None, parallel=None, dask=None)
    parser.add_argument(
        "--force", nargs="+", default=(), metavar="STAGE", help="stages to repeat although they are stored"
    )
    add_json(parser)
    add_settings(parser, words)


def run_record(result: RunResult, config: ExperimentConfig, output: Path) -> dict[str, Any]:
    """Returns what a machine reads of a run.

    Args:
        result: What it gave back.
        config: The resolved configuration.
        output: Folder of all that was written.

    Returns:
        `run_id` and `tracking`, null without MLflow; `report`, null before the stage test; `models` and `pure_models`, folders of
        finished policies by stage, as the store and as people call them; `k`, the cut-off that the comparison is about; `rows` of
        the table, or null; `folders` by stage; `reused` stages; `links` as people read them.
    """
    from softgrpo.flows.results.recorded import RecordedRun
    from softgrpo.serving.pure_models import FOLDER, model_path
    from softgrpo.stages.contract import POLICY_STAGES

    folders = {name: str(folder) for name, folder in result.folders.items()}
    policies = [name for name in POLICY_STAGES if name in folders]
    return {
        "run_id": result.run_id if isinstance(result, RecordedRun) else None,
        "tracking": result.tracking if isinstance(result, RecordedRun) else None,
        "report": result.links.get("report"),
        "models": {name: folders[name] for name in policies},
        "pure_models": {name: str(output.resolve() / FOLDER / model_path(config, name)) for name in policies},
        "k": config.fusion.k,
        "rows": None if result.table is None else json.loads(result.table.to_json(orient="records")),
        "folders": folders,
        "reused": list(result.reused),
        "links": dict(result.links),
    }


def announce(result: RunResult, k: int) -> None:
    """Prints the comparison, where things are, the verdict, and last the run's id and page; k is the cut-off of the comparison."""
    from softgrpo.evaluation.summary import read_summary
    from softgrpo.flows.command.output import print_comparison, print_sentences
    from softgrpo.flows.results.places import last_line
    from softgrpo.flows.results.recorded import RecordedRun

    if result.table is not None:
        print_comparison(result.table, k)
    rows = dict(result.links)
    rows |= {f"{name} model": str(result.folders[name]) for name in ("sft", "grpo") if name in result.folders}
    rows["stages run"] = ", ".join(name for name in result.folders if name not in result.reused) or "none"
    rows["stages reused"] = ", ".join(result.reused) or "none"
    width = max(map(len, rows))
    for label, value in rows.items():
        print(f"{label:<{width}}  {visible(value)}")
    summary = read_summary(result.folders["test"]) if "test" in result.folders else None
    print_sentences(summary.sentences if summary else ())
    if isinstance(result, RecordedRun):
        print(last_line(result.run_id, dict(result.links)))


def _check_source(run_id: str, output: Path, config: ExperimentConfig, until: str) -> None:
    """Checks that a run has stages that may stand before the last one wanted.

    Raises:
        ConfigError: See `softgrpo.tasks.tracking.lookup.upstream_runs`.
        StoreError: No run is stored there, or MLflow does not answer.
    """
    prepare_to_read(output)
    from softgrpo.pipeline.plan import plan
    from softgrpo.tasks.tracking.lookup import open_store_of_run, upstream_runs

    upstream_runs(open_store_of_run(run_id, output), run_id, plan(config, until), config)


def _with_page(result: RunResult, config: ExperimentConfig, output: Path) -> RunResult:
    """Writes the report of a run without MLflow, with its date, command and costs on it, and links to it."""
    from softgrpo.flows.results.report_page import RunFacts, write_page
    from softgrpo.pipeline.run import local_costs
    from softgrpo.pipeline.store import LocalStore

    if "test" not in result.folders:
        return result
    costs = local_costs(LocalStore(stages_folder(output)), result.folders)
    page = write_page(result.folders["test"], output, RunFacts(config, datetime.now(UTC), costs=costs))
    return replace(result, links={**result.links, "report": str(page)})


def pipeline_job(arguments: argparse.Namespace, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
    """Returns the run of a checked configuration.

    Args:
        arguments: The parsed command line.
        config: The resolved configuration.
        until: Last stage wanted.
        standalone: Run without Prefect and MLflow.

    Raises:
        SoftGRPOError: Something would fail later; nothing was written.
    """
    from softgrpo.pipeline.preflight import preflight

    force = tuple(check_stage(name, known=ALL_STAGES) for name in arguments.force)
    check_output(arguments.output)
    if standalone and (arguments.parallel or arguments.dask):
        raise ConfigError(
            "--parallel or --dask",
            "A standalone run is one process",
            "Leave it out, or run the stage full",
            code="CONFIG-022",
        )
    if standalone and arguments.from_run:
        raise ConfigError(
            "--from-run", "A standalone run knows no MLflow", "Leave it out, or run the stage full", code="CONFIG-023"
        )
    if not standalone:
        from softgrpo.tasks.servers.addresses import check_workers

        check_workers(arguments.parallel, arguments.dask)
        check_servers()
    if arguments.from_run:
        _check_source(arguments.from_run, arguments.output, config, until)
    print_notes(preflight(config, until))

    def job() -> int:
        if standalone:
            from softgrpo.flows.runtime.console import make_readable
            from softgrpo.pipeline.run import run_standalone

            make_readable(arguments.debug)
            result = _with_page(run_standalone(config, until, force, arguments.output), config, arguments.output)
        else:
            from softgrpo.flows.start import run_pipeline

            result = run_pipeline(
                config,
                until,
                force,
                arguments.output,
                arguments.from_run,
                arguments.debug,
                parallel=arguments.parallel,
                dask=arguments.dask,
            )
        if arguments.json:
            print_json(run_record(result, config, arguments.output))
        else:
            announce(result, config.fusion.k)
        return OK

    return job
