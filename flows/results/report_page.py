"""The report of a run: what the stage `test` stored, completed with the run's id, date, command, commit and links."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from softgrpo.common.artifacts import REPORT_PAGE, REPORT_TEXT, TABLE
from softgrpo.common.files import make_private
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.store import LocalStore, write_atomic
from softgrpo.presets import resolve
from softgrpo.presets.changes import WITHOUT_EFFECT, difference
from softgrpo.presets.settings import as_flags
from softgrpo.stages.contract import LIST_MILLISECONDS, MERGE_MILLISECONDS, POLICY_MILLISECONDS

if TYPE_CHECKING:
    from softgrpo.evaluation.pages.costs import Cost

PAGE, TEXT, FOLDER = REPORT_PAGE, REPORT_TEXT, "reports"


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run besides its results.

    Attributes:
        config: The configuration it ran with.
        started: When it was started, or without MLflow when its page is written.
        run_id: Its id in MLflow, None without.
        name: Its name in MLflow, None without.
        commit: Of the checkout that ran it, None outside one.
        link: Its page in MLflow, or where that is.
        costs: Measured milliseconds, `<node>/<what>`, as far as stages have reported them; see `softgrpo.stages.contract`.
    """

    config: ExperimentConfig
    started: datetime
    run_id: str | None = None
    name: str | None = None
    commit: str | None = None
    link: str | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


def repeat_command(config: ExperimentConfig, standalone: bool = False) -> str:
    """Returns the shortest command line that runs this configuration again; of files on this machine it names none but a model.

    Args:
        config: The configuration.
        standalone: Without Prefect and MLflow; there is no debug stage then.
    """
    dataset, size = config.data.dataset, config.policy.size
    changes: dict[str, Mapping[str, Any]] = {}
    for stage in ("full",) if standalone else ("full", "debug"):
        differing = difference(config, resolve(dataset, size, stage))
        changes[stage] = {path: value for path, value in differing.items() if path not in WITHOUT_EFFECT}
    stage = min(changes, key=lambda name: len(changes[name]))
    words = ["softgrpo", "run", dataset, "standalone" if standalone else stage, size, *as_flags(changes[stage])]
    return shlex.join(words)


def complete(folder: Path, facts: RunFacts) -> dict[str, str]:
    """Returns the pages of a finished stage `test`, file name to text, with what is known of the run in their place.

    Args:
        folder: Payload of the stage.
        facts: What is known of the run.
    """
    from softgrpo.evaluation.pages import costs
    from softgrpo.evaluation.pages.provenance import (
        COSTS,
        PROVENANCE,
        Provenance,
        fill,
        provenance_html,
        provenance_markdown,
    )

    known = {
        "run id": facts.run_id,
        "run": facts.name,
        "started": facts.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": repeat_command(facts.config, standalone=facts.run_id is None),
        "commit": facts.commit,
        "version": f"softgrpo {importlib.metadata.version('softgrpo')}",
    }
    links = {"MLflow run": facts.link} if facts.link and facts.link.startswith(("http://", "https://")) else {}
    provenance = Provenance({label: text for label, text in known.items() if text}, links)
    pages = {name: (folder / name).read_text(encoding="utf-8") for name in (PAGE, TEXT)}
    pages[PAGE] = fill(pages[PAGE], PROVENANCE, provenance_html(provenance))
    pages[TEXT] = fill(pages[TEXT], PROVENANCE, provenance_markdown(provenance))
    k = facts.config.fusion.k
    if unknown := unknown_times(facts):
        html, markdown = costs.unknown_html(unknown), costs.unknown_markdown(unknown)
    else:
        measured, missing = _costs(folder, facts)
        html, markdown = costs.costs_html(measured, k, missing), costs.costs_markdown(measured, k, missing)
    pages[PAGE] = fill(pages[PAGE], COSTS, html)
    pages[TEXT] = fill(pages[TEXT], COSTS, markdown)
    return pages


MERGE, POLICY = f"test/{MERGE_MILLISECONDS}", f"test/{POLICY_MILLISECONDS}"


def _list_times(config: ExperimentConfig) -> dict[str, str]:
    """Returns what the time of each recaller's list is called."""
    return {name: f"recall-{name}/{LIST_MILLISECONDS}" for name in config.recall.recallers}


def unknown_times(facts: RunFacts) -> tuple[str, ...]:
    """Returns what of a run has no measured time, in words; nothing where all times are known."""
    needed = {f"the list of {name}": key for name, key in _list_times(facts.config).items()}
    needed |= {"the merge": MERGE, "the language model": POLICY}
    return tuple(words for words, key in needed.items() if key not in facts.costs)


def _costs(folder: Path, facts: RunFacts) -> tuple[tuple[Cost, ...], str]:
    """Returns what rows cost, where all times are known, and which rows have no cost."""
    from softgrpo.evaluation.chosen import read_chosen
    from softgrpo.evaluation.pages.costs import costs_of, without_cost

    lists = {name: facts.costs[key] for name, key in _list_times(facts.config).items()}
    table = pd.read_parquet(folder / TABLE)
    chosen = read_chosen(folder)
    best = chosen.best if chosen else ""
    costs = costs_of(table, facts.config.fusion.k, lists, facts.costs[MERGE], facts.costs[POLICY], best)
    return costs, without_cost(table, costs, best)


def write_group_page(store: LocalStore, group: str, page: str) -> Path:
    """Writes the page of several runs beside the reports of single ones, and returns its path.

    Args:
        store: Where finished stages are.
        group: MLflow run of the group.
        page: In HTML.
    """
    path = store.root.parent / FOLDER / f"{group}.html"
    make_private(path.parent)
    write_atomic(path, page)
    return path


def write_page(folder: Path, output: Path, facts: RunFacts) -> Path:
    """Writes the HTML page of a run to `<output>/reports` and returns its path; it needs no other file.

    Args:
        folder: Payload of the stage `test`.
        output: Folder of all that is written.
        facts: What is known of the run.
    """
    path = output.resolve() / FOLDER / f"{facts.run_id or folder.name}.html"
    make_private(path.parent)
    write_atomic(path, complete(folder, facts)[PAGE])
    return path
