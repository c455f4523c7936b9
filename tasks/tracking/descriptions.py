"""Descriptions of runs on MLflow's pages, in Markdown. Whatever came from outside is made harmless in one place, `plain`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from softgrpo.common.text import visible
from softgrpo.evaluation.summary import Summary
from softgrpo.tasks.tracking.headline import Line

NOTE = MLFLOW_RUN_NOTE
NOTE_CHARACTERS = 5000
"""What every MLflow stores in a tag."""
STAGES = {
    "split": "Reads the data, filters it, and cuts every user's history into parts; in a refit all of it is for training.",
    "embed": "Embeds the text of every item, for the recaller Text.",
    "recall": "Trains one recaller and stores it with its candidate lists, in a refit without lists.",
    "data": "Writes features and prompts, and finds the best static mixture.",
    "check": "Looks for leaks in what the stages before it stored.",
    "gates": "Fits and stores the gates, the item ranker and the static mixtures: all that needs no language model.",
    "sft": "Teaches the language model by labels, from the best static mixture on.",
    "grpo": "Trains the SFT policy on by rewards: SofT-GRPO.",
    "test": "Compares all methods on the test windows and writes the report.",
}


def plain(text: str) -> str:
    """Returns text that Markdown and HTML show as it is, in one line; what a reader cannot see is an escape."""
    line = visible(text)
    return re.sub(r"([\\`*_\[\]<>|#~&])", lambda special: f"&#{ord(special[0])};", line)


def pipeline_note(
    settings: Mapping[str, str],
    summary: Summary | None,
    table: Sequence[Line],
    links: Mapping[str, str],
    stages: Mapping[str, str],
    failure: str = "",
) -> str:
    """Returns the description of a pipeline's run.

    Args:
        settings: What it ran with, name -> value; shown in one line.
        summary: The verdict, None before there is one.
        table: The small table, may be empty.
        links: Label -> address.
        stages: Name of a finished stage -> address of its run.
        failure: What ended the run, "" if nothing did.
    """
    parts = [f"**The run failed.** {plain(failure)}"] if failure else []
    if summary is not None:
        parts.append("\n".join(f"- {plain(sentence)}" for sentence in summary.sentences))
    if summary is not None and table:
        head = f"| method | NDCG@{summary.k} | against the best single recaller | against the best static mixture |"
        rows = [f"| {plain(line.label)} | {line.ndcg:.4f} | {' | '.join(map(plain, line.gains))} |" for line in table]
        parts.append("\n".join([head, "|---|---|---|---|", *rows]))
    parts.append("; ".join(f"{plain(name)}: {plain(value)}" for name, value in settings.items()))
    if links:
        parts.append("\n".join(f"- [{plain(label)}]({address})" for label, address in links.items()))
    if stages:
        parts.append("Runs of the stages: " + ", ".join(f"[{plain(name)}]({page})" for name, page in stages.items()))
    return short("\n\n".join(parts))


def stage_note(stage: str, variant: str, pipeline: str) -> str:
    """Returns the description of a stage's run.

    Args:
        stage: Its name.
        variant: Of a recaller's stage the recaller.
        pipeline: Address of the run of the pipeline that made it.
    """
    what = f" ({plain(variant)})" if variant else ""
    return f"{STAGES.get(stage, 'A stage of the pipeline.')}{what}\n\n- [The pipeline's run that made it]({pipeline})"


def short(note: str) -> str:
    """Returns a description that MLflow takes; what is too long ends with a line that says so."""
    end = "\n\n(shortened)"
    return note if len(note) <= NOTE_CHARACTERS else note[: NOTE_CHARACTERS - len(end)].rpartition("\n")[0] + end
