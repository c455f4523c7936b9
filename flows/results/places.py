"""Where a run can be seen: its report, its page in MLflow, its page in Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from softgrpo.common.redaction import without_login
from softgrpo.flows.results.finished import FinishedRun, open_finished
from softgrpo.flows.results.stored_report import publish_report

TEST = "test"
REPORT = "report"
ID_CHARACTERS = 8
"""Of the beginning of an id, where it is a hint."""


@dataclass(frozen=True)
class Place:
    """One place.

    Attributes:
        label: What is there.
        text: Its address or path, or why there is none.
        address: What a browser opens, "" where there is nothing to open.
    """

    label: str
    text: str
    address: str = ""


def open_to_show(run_id: str, output: Path) -> FinishedRun:
    """Finds a run that can be shown, finished or not, with its report if it has one.

    Args:
        run_id: MLflow run of a pipeline, or of a refit.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.

    Raises:
        SoftGRPOError: See `open_finished`.
    """
    return open_finished(run_id, output, (TEST,), (), refits=True)


def places_of(run: FinishedRun, output: Path) -> list[Place]:
    """Returns where a run can be seen; writes its report to the output folder where it is not there yet.

    Args:
        run: From `open_to_show`.
        output: Folder of all that is written.

    Raises:
        StoreError: A file cannot be written, or MLflow does not answer.
    """
    from softgrpo.tasks.tracking.lookup import open_store_of_run, read_run

    store = open_store_of_run(run.run_id, output)
    stored = read_run(store, run.run_id)
    return [
        _report(run, output, store.runs.is_at_work(stored)),
        _page("MLflow run", run.link),
        _prefect(stored.data.tags, output),
    ]


def _report(run: FinishedRun, output: Path, at_work: bool) -> Place:
    if TEST not in run.folders:
        waiting = f"none yet: the run is at work (softgrpo watch {run.run_id[:ID_CHARACTERS]})"
        return Place(REPORT, waiting if at_work else "none: the run did not reach the stage test")
    evaluated, label = run, REPORT
    if run.refit_of:  # a refit was not evaluated
        evaluated, label = open_finished(run.refit_of, output, (TEST,), (TEST,)), f"{REPORT} of {run.refit_of}"
    path, _ = publish_report(evaluated, output)
    return Place(label, str(path), path.resolve().as_uri())


def _page(label: str, text: str) -> Place:
    return Place(label, text, text if text.startswith(("http://", "https://")) else "")


def _prefect(tags: Mapping[str, str], output: Path) -> Place:
    from softgrpo.tasks.servers.addresses import is_reached, make_line
    from softgrpo.tasks.tracking.run_names import PREFECT_TAG

    if PREFECT_TAG not in tags:
        return Place("Prefect run", "none: the run had a server of its own, which ended with it")
    page = without_login(tags[PREFECT_TAG])
    if not is_reached(page):
        start = make_line("services", output)
        return Place("Prefect run", f"{page}, but its server is not running; {start} starts that of this output folder")
    return _page("Prefect run", page)


def last_line(run_id: str, links: dict[str, str]) -> str:
    """Returns the line that a run ends with: its id, its page, and the command that opens all pages.

    Args:
        run_id: MLflow run.
        links: See `softgrpo.flows.results.summary.links`.
    """
    page = links["MLflow run"]
    shown = page if page.startswith(("http://", "https://")) else links.get(REPORT, "no page yet")
    return f"run {run_id}: {shown} (softgrpo open {run_id[:ID_CHARACTERS]})"
