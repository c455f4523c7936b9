"""What a study showed, in sentences and as Prefect's page. It imports no Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from softgrpo.evaluation.formatting import signed, table_rows
from softgrpo.flows.results.prefect_page import bullets, markdown_table, verdict_markdown


@dataclass(frozen=True)
class StudyParts:
    """What a study found.

    Attributes:
        study: Its name.
        run_id: Its run in MLflow.
        trials: See `softgrpo.flows.study.trial_table`.
        best: The best settings by dotted path.
        k: Cut-off of the NDCG.
        command: The command that runs the whole pipeline with the best settings.
    """

    study: str
    run_id: str
    trials: pd.DataFrame
    best: Mapping[str, float]
    k: int
    command: str


def study_sentences(trials: pd.DataFrame, best: Mapping[str, float], k: int) -> tuple[str, ...]:
    """Says which trial is the best, by how much, and in which settings it differs from those that the search started from.

    Args:
        trials: See `softgrpo.flows.study.trial_table`; the first row is the trial that the search started from.
        best: The best settings by dotted path.
        k: Cut-off of the NDCG.
    """
    start, *_ = rows = table_rows(trials)
    complete = [row for row in rows if row["state"] == "complete"]
    chosen = max(complete, key=lambda row: (row["validation_ndcg"], -row["trial"]))
    reached = f"validation NDCG@{k} {chosen['validation_ndcg']:.4f}"
    counts = f"{len(complete)} of {len(rows)} trials came to their end"
    changes = [f"{path} ({value:g}, not {start[path]:g})" for path, value in best.items() if value != start[path]]
    if not changes:
        return (f"No trial beats the settings that the search started from: {reached}; {counts}.",)
    gain = chosen["validation_ndcg"] - start["validation_ndcg"]
    beside = "" if math.isnan(gain) else f", {signed(gain)} against the settings that the search started from"
    return (
        f"Trial {chosen['trial']} is the best: {reached}{beside}; {counts}.",
        f"It differs from the start in {', '.join(changes)}.",
    )


def study_html(title: str, tuned: StudyParts, address: str | None) -> str:
    """Returns a study as an HTML page that needs no other file.

    Args:
        title: Heading.
        tuned: What the study found.
        address: Of the study's run in MLflow, None where no server shows it.
    """
    from softgrpo.evaluation.study_page import StudyPage, render_study

    facts = {"MLflow run": tuned.run_id, "study": tuned.study}
    links = {"MLflow": address} if address else {}
    sentences = study_sentences(tuned.trials, tuned.best, tuned.k)
    page = StudyPage(title, sentences, tuned.trials, tuned.best, tuned.k, tuned.command, facts, links)
    return render_study(page)


def study_page(trials: pd.DataFrame, best: Mapping[str, float], k: int, command: str, place: str) -> str:
    """Returns the page of a study.

    Args:
        trials: See `softgrpo.flows.study.trial_table`.
        best: The best settings by dotted path.
        k: Cut-off of the NDCG.
        command: The command that runs the whole pipeline with the best settings.
        place: Markdown that leads to the study's run in MLflow.
    """
    names = [path.rpartition(".")[2].replace("_", " ") for path in best]
    cells = [
        [
            f"{row['trial']}, {row['state']}",
            "" if math.isnan(row["validation_ndcg"]) else f"{row['validation_ndcg']:.4f}",
            *(f"{row[path]:g}" for path in best),
        ]
        for row in table_rows(trials)
    ]
    parts = [
        verdict_markdown(study_sentences(trials, best, k)),
        "## The best settings, run to the end",
        f"```sh\n{command}\n```",
        "## Trials",
        markdown_table(["trial", f"validation NDCG@{k}", *names], cells),
        "## Where to look further",
        bullets([f"MLflow run: {place}"]),
    ]
    return "\n\n".join(parts) + "\n"
