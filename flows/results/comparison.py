"""`softgrpo compare RUN RUN...`: several runs in one table, on the same test windows, or averaged over their seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from softgrpo.config import EvaluationConfig
from softgrpo.errors import ConfigError
from softgrpo.evaluation.summary import FOCUS
from softgrpo.flows.results.differences import differing, differing_settings
from softgrpo.flows.results.finished import check_pipeline
from softgrpo.flows.runtime.environment import prepare_to_read
from softgrpo.presets.changes import WITHOUT_EFFECT

if TYPE_CHECKING:
    from softgrpo.evaluation.across_runs import (
        EvaluatedRun,  # torch takes seconds, which `make deploy` need not wait for
    )

SHORTEST = 6
"""Characters of an id that stand for a run; `softgrpo.tasks.tracking.lookup.read_run` takes them too."""


@dataclass(frozen=True)
class ComparedRuns:
    """What a comparison gives.

    Attributes:
        table: See `softgrpo.evaluation.across_runs.compare_runs`, of seeds `softgrpo.evaluation.across_runs.average_seeds`.
        verdicts: One sentence for each run after the first, of seeds for each reference.
        k: Cut-off of the NDCG of the differences.
        link: Page of MLflow that compares the runs, None where no server shows one.
        differences: Setting -> label of a run -> value, of the settings in which the runs differ.
        references: Prefix of the table's columns of differences -> name of the reference.
        runs: `label` (the beginning of its id, used in the table), `name` and `run_id` of each run that was named;
            empty for variants of an experiment, which the table calls by their names.
        changes: In which settings each run after the first differs from it, in one sentence each.
        page: The HTML page, None where none was written.
    """

    table: pd.DataFrame
    verdicts: tuple[str, ...]
    k: int
    link: str | None
    differences: Mapping[str, Mapping[str, str]]
    references: Mapping[str, str]
    runs: tuple[dict[str, str], ...] = ()
    changes: tuple[str, ...] = ()
    page: Path | None = None

    @property
    def tested(self) -> str:
        """Prefix of the columns of differences that the first verdict is about, which are those that a terminal shows."""
        return "vs_first" if "vs_first" in self.references else "vs_single"

    def as_record(self) -> dict[str, Any]:
        """Returns what a machine reads."""
        rows = json.loads(self.table.to_json(orient="records"))
        verdicts, runs = list(self.verdicts), list(self.runs)
        differences = {setting: dict(values) for setting, values in self.differences.items()}
        record = {"k": self.k, "rows": rows, "verdicts": verdicts, "link": self.link, "runs": runs}
        return record | {"differences": differences, "html": self.page and str(self.page)}

    def html(self, title: str, names: Mapping[str, str], note: str) -> str:
        """Returns the comparison as one HTML page.

        Args:
            title: Heading.
            names: Label of each run in the table -> its name.
            note: What a reader of the table must know.
        """
        from softgrpo.evaluation.comparison_page import ComparisonPage, render_comparison

        links = {"MLflow": self.link} if self.link else {}
        page = ComparisonPage(
            title, names, self.differences, self.verdicts, self.table, self.k, self.references, note, links
        )
        return render_comparison(page)


@dataclass(frozen=True)
class Stored:
    """Runs as MLflow has them.

    Attributes:
        runs: What the test stage of each stored.
        settings: The settings of each, by dotted path.
        k: Cut-off of the first.
        evaluation: The first one's settings of the bootstrap.
        link: Page of MLflow that compares them, None where no server shows one.
        known_as: See `ComparedRuns.runs`.
    """

    runs: list[EvaluatedRun]
    settings: list[dict[str, str]]
    k: int
    evaluation: EvaluationConfig
    link: str | None
    known_as: tuple[dict[str, str], ...]

    @property
    def seed(self) -> int:
        """Seed of the first, and of the bootstrap."""
        return int(self.settings[0]["seed"])

    @property
    def settings_of(self) -> dict[str, dict[str, str]]:
        """The settings by the label of their run."""
        return {run.name: values for run, values in zip(self.runs, self.settings, strict=True)}


def read_stored_runs(run_ids: Sequence[str], output: Path) -> Stored:
    """Reads runs that reached the test stage.

    Args:
        run_ids: MLflow runs of pipelines, at least two; six or more characters from the beginning of an id are enough.
        output: Folder of finished stages, and of MLflow's database unless the environment names another.

    Raises:
        ConfigError: Fewer than two, one twice, an unknown one, one that did not reach the test stage, or runs of other users.
        StoreError: MLflow does not answer, or files are gone.
    """
    _check_different(run_ids)
    prepare_to_read(output)
    from softgrpo.evaluation.across_runs import EvaluatedRun
    from softgrpo.tasks.tracking.lookup import open_store_of_run, read_run, stage_runs

    store = open_store_of_run(run_ids[0], output)
    pipelines = [read_run(store, run_id) for run_id in run_ids]
    ids = [run.info.run_id for run in pipelines]
    _check_different(ids)
    labels = short_ids(ids)
    evaluated = []
    for label, run in zip(labels, pipelines, strict=True):
        check_pipeline(run.info.run_id, run.data.tags)
        stages = stage_runs(store, run)
        if "test" not in stages:
            raise ConfigError(
                f"run '{run.info.run_id}'",
                "It did not reach the stage test",
                "Name the run of a whole pipeline",
                code="CONFIG-026",
            )
        reference = store.fetch("test", read_run(store, stages["test"]))
        evaluated.append(EvaluatedRun.read(label, store.local.payload(reference["key"])))
    settings = [dict(run.data.params) for run in pipelines]
    _check_same_users(dict(zip(labels, settings, strict=True)))
    evaluation = EvaluationConfig(
        bootstrap=int(settings[0]["evaluation.bootstrap"]), confidence=float(settings[0]["evaluation.confidence"])
    )
    known_as = tuple(
        {"label": label, "name": str(run.info.run_name), "run_id": run.info.run_id}
        for label, run in zip(labels, pipelines, strict=True)
    )
    link = store.runs.tracking.comparison_link(ids)
    return Stored(evaluated, settings, int(settings[0]["fusion.k"]), evaluation, link, known_as)


def _check_same_users(settings: Mapping[str, Mapping[str, str]]) -> None:
    """Checks that runs were tested on the same users: all settings of the data are equal, and the seed where it draws users.

    Args:
        settings: Label of a run -> its settings, by dotted path.

    Raises:
        ConfigError: They were not.
    """
    drawn = any(values.get("data.max_users", "null") != "null" for values in settings.values())
    unequal = [
        name
        for name in differing_settings(settings)
        if (name.startswith("data.") and name not in WITHOUT_EFFECT) or (name == "seed" and drawn)
    ]
    if unequal:
        first = unequal[0]
        values = ", ".join(
            f"{label}: {settings_of_run.get(first, 'not set')}" for label, settings_of_run in settings.items()
        )
        raise ConfigError(
            f"runs that differ in {first} ({values})",
            "A paired comparison needs the same test windows of the same users"
            + ("; data.max_users draws other users with another seed" if first == "seed" else ""),
            "Compare runs of one dataset with equal settings of the data",
            code="CONFIG-027",
        )


def _check_different(run_ids: Sequence[str]) -> None:
    if len(set(run_ids)) < max(2, len(run_ids)):
        raise ConfigError(
            f"runs {', '.join(run_ids)}",
            "A comparison takes two or more different runs",
            "Name others",
            code="CONFIG-028",
        )


def short_ids(run_ids: Sequence[str]) -> list[str]:
    """Returns the beginnings of different ids, six characters long or as many as tell them apart."""
    lengths = range(SHORTEST, max(map(len, run_ids)) + 1)
    length = next(length for length in lengths if len({run_id[:length] for run_id in run_ids}) == len(run_ids))
    return [run_id[:length] for run_id in run_ids]


def compare_stored_runs(run_ids: Sequence[str], output: Path) -> ComparedRuns:
    """Compares runs that reached the test stage; the first one holds the references, the cut-off and the bootstrap's settings.

    Raises:
        ConfigError: See `read_stored_runs`.
        DataError: They were not tested on the same windows.
        StoreError: See `read_stored_runs`.
    """
    from softgrpo.evaluation.across_runs import compare_runs
    from softgrpo.evaluation.formatting import least_p, verdict

    stored = read_stored_runs(run_ids, output)
    k, (first, *others) = stored.k, stored.runs
    table = compare_runs(stored.runs, FOCUS, f"ndcg@{k}", stored.evaluation, stored.seed)
    rows = {row["method"]: {str(name): value for name, value in row.items()} for row in table.to_dict("records")}
    least = least_p(table, stored.evaluation.bootstrap)
    verdicts = tuple(verdict(rows[f"{run.name}/{FOCUS}"], "vs_first", first.name, k, least) for run in others)
    references = {"vs_single": "the best single recaller of the first run", "vs_first": "SofT-GRPO of the first run"}
    settings = stored.settings_of
    different, changes = differing_settings(settings), differing(settings)
    return ComparedRuns(table, verdicts, k, stored.link, different, references, stored.known_as, changes)


def average_stored_seeds(run_ids: Sequence[str], output: Path) -> ComparedRuns:
    """Averages runs of one experiment with different seeds, see `softgrpo.evaluation.across_runs`.

    Raises:
        ConfigError: See `read_stored_runs`; or the runs differ in more than the seed, or not in the seed.
        DataError: They were not tested on the same users.
        StoreError: See `read_stored_runs`.
    """
    from softgrpo.evaluation.across_runs import BEST_SINGLE, LABELS, STATIC, average_seeds
    from softgrpo.evaluation.formatting import least_p, verdict

    stored = read_stored_runs(run_ids, output)
    seeds = [settings["seed"] for settings in stored.settings]
    differences = differing_settings(stored.settings_of)
    others = sorted(set(differences) - {"seed"})
    if others or len(set(seeds)) < len(seeds):
        what = f"that differ in {', '.join(others)}" if others else f"with the seeds {', '.join(seeds)}"
        raise ConfigError(
            f"runs {what}",
            "Runs are averaged that differ in their seeds and in nothing else",
            "Name others, or compare them",
            code="CONFIG-029",
        )
    table = average_seeds(stored.runs, f"ndcg@{stored.k}", stored.evaluation, stored.seed)
    row = {str(name): value for name, value in table.set_index("method", drop=False).loc[FOCUS].items()}
    references = {"vs_single": LABELS[BEST_SINGLE], "vs_static": LABELS[STATIC]}
    least = least_p(table, stored.evaluation.bootstrap)
    verdicts = tuple(
        verdict(row, vs, f"the {name[0].lower()}{name[1:]}", stored.k, least) for vs, name in references.items()
    )
    named = {vs: f"{name[0].lower()}{name[1:]}" for vs, name in references.items()}
    return ComparedRuns(table, verdicts, stored.k, stored.link, differences, named, stored.known_as)
