"""What a report tells, as files: written by the stage `test`, read to write the report again with other draws.

Nothing in these files says where anything is on this machine. Legend: W windows, M recallers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError

from softgrpo.baselines.static_mixture import StaticMixture
from softgrpo.common.artifacts import BEYOND, REPORT, REPORT_PAGE, TABLE, WEIGHTS, WINDOWS
from softgrpo.common.columns import Columns
from softgrpo.config import EvaluationConfig, ExperimentConfig
from softgrpo.errors import ConfigError, DataError
from softgrpo.evaluation.cases import Case, Shown
from softgrpo.evaluation.chosen import Chosen
from softgrpo.evaluation.coverage import Coverage
from softgrpo.evaluation.drivers import Drivers
from softgrpo.evaluation.lift import Lift
from softgrpo.evaluation.parts import write_frames
from softgrpo.evaluation.report import summarise, write_report
from softgrpo.evaluation.report_content import Choice, MergeRow, Report
from softgrpo.evaluation.rows import Method
from softgrpo.evaluation.summary import write_summary
from softgrpo.evaluation.table import Comparison, tabulate
from softgrpo.evaluation.window_metrics import WindowMetrics
from softgrpo.policy.shift import InputShift

SHOWN_SETTINGS: dict[str, Any] = {
    "seed": True,
    "data": {"dataset"},
    "split": True,
    "recall": {"recallers", "depth"},
    "fusion": True,
    "evaluation": True,
}
"""What reports tell of the settings; there are no paths among them."""


def save_report(report: Report, folder: Path) -> None:
    """Writes a comparison and the rest of a report.

    The comparison is in `table.parquet`, `windows.parquet` and `weights.parquet`, what is beyond accuracy in `beyond.parquet`,
    the result in words in `summary.json`, the rest in `report.json`.
    """
    comparison = report.comparison
    comparison.table.to_parquet(folder / TABLE, index=False)
    comparison.measured.write(folder / WINDOWS)
    frames = (
        pd.DataFrame(method.weights.numpy(), columns=list(report.config.recall.recallers)).assign(
            method=method.key, **{Columns.Window: comparison.measured.windows}
        )
        for method in comparison.methods
        if method.weighs
    )
    write_frames(folder / WEIGHTS, frames)
    if report.beyond is not None:
        report.beyond.to_parquet(folder / BEYOND, index=False)
    config = report.config
    stored = {
        "config": config.model_dump(mode="json", include=SHOWN_SETTINGS, exclude={"fusion": config.fusion.idle}),
        "best_single": comparison.best_single,
        "best_static": comparison.best_static,
        "merge": report.merge,
        "merges": [asdict(merge) for merge in report.merges],
        "static": asdict(report.static),
        "gates": [asdict(gate) for gate in report.gates],
        "facts": dict(report.facts),
        "head": dict(report.head),
        "focus": report.focus,
        "learnt": report.learnt,
        "history": report.history.tolist(),
        "popularity": None if report.popularity is None else report.popularity.tolist(),
        "curves": _points(report.curves),
        "sft_curves": _points(report.sft_curves),
        "recaller_curves": {name: _points(curves) for name, curves in report.recaller_curves.items()},
        "confusion": report.confusion.to_dict("split"),
        "cases": [asdict(case) for case in report.cases],
        "coverage": report.coverage and asdict(report.coverage),
        "lift": report.lift and report.lift.as_record(),
        "shifts": [asdict(shift) for shift in report.shifts],
        "drivers": report.drivers and report.drivers.as_record(),
        "chosen": report.chosen and asdict(report.chosen),
    }
    (folder / REPORT).write_text(json.dumps(stored, indent=1), encoding="utf-8")
    write_summary(folder, summarise(report))


def load_report(folder: Path, changes: Mapping[str, Any] | None = None) -> Report:
    """Reads what `save_report` wrote.

    Args:
        folder: Of the stage `test`.
        changes: Settings of `evaluation` that are to be others: `bootstrap`, `confidence`. The table is made anew with them.

    Raises:
        DataError: The folder lacks one of the files.
        ConfigError: A change is no legal value.
    """
    missing = [name for name in (REPORT, TABLE, WINDOWS, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"a test stage without {', '.join(missing)}",
            "a report is written from what the stage test stored",
            "Run the pipeline again; stages that have not changed are reused",
            code="DATA-021",
        )
    stored = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    config = ExperimentConfig.model_validate(stored["config"])
    evaluation = _changed(config.evaluation, changes or {})
    comparison = _comparison(folder, stored, config)
    if evaluation != config.evaluation:
        config = config.model_copy(update={"evaluation": evaluation})
        comparison = _with_other_draws(comparison, config)
    return Report(
        config=config,
        comparison=comparison,
        merge=stored["merge"] if "merge" in stored else config.fusion.merges[0].name,  # an earlier version named it
        merges=tuple(MergeRow(**{**merge, "weights": tuple(merge["weights"])}) for merge in stored.get("merges", [])),
        static=StaticMixture.of(stored["static"]),
        gates=tuple(Choice(**gate) for gate in stored["gates"]),
        facts=stored["facts"],
        head=stored.get("head", {}),
        focus=stored["focus"],
        learnt=stored.get("learnt", ""),  # an earlier version stored less
        history=np.array(stored["history"], dtype=np.int64),
        curves=_frames(stored["curves"]),
        sft_curves=_frames(stored.get("sft_curves", {})),
        recaller_curves={name: _frames(curves) for name, curves in stored.get("recaller_curves", {}).items()},
        confusion=pd.DataFrame(**stored["confusion"]).rename_axis("best"),
        cases=tuple(_case(case) for case in stored["cases"]),
        coverage=_coverage(stored.get("coverage")),
        lift=Lift.of(stored["lift"]) if stored.get("lift") else None,
        drivers=Drivers.of(stored["drivers"]) if stored.get("drivers") else None,
        beyond=pd.read_parquet(folder / BEYOND) if (folder / BEYOND).is_file() else None,
        popularity=np.array(stored["popularity"], dtype=np.float64) if stored.get("popularity") else None,
        shifts=tuple(InputShift(**shift) for shift in stored.get("shifts", [])),
        chosen=Chosen.from_record(stored["chosen"]) if stored.get("chosen") else None,
    )


def _points(curves: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    return {name: frame.to_dict("list") for name, frame in curves.items()}


def _frames(curves: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    return {name: pd.DataFrame(points) for name, points in curves.items()}


def _coverage(stored: Mapping[str, Any] | None) -> Coverage | None:
    if stored is None:
        return None
    lists = {name: tuple(stored[name]) for name in ("recallers", "hits", "unique")}
    return Coverage(**{**stored, **lists, "shared": tuple(map(tuple, stored["shared"]))})


def rewrite_report(folder: Path, out: Path, bootstrap: int | None = None, confidence: float | None = None) -> Path:
    """Writes the report of a finished test stage again.

    Args:
        folder: Of the stage `test`; nothing is written there.
        out: Folder that gets `report.html`, `report.md` and `figures`.
        bootstrap: Draws of the bootstrap; None keeps those of the run.
        confidence: Level of the intervals; None keeps that of the run.

    Returns:
        The path of the HTML page.

    Raises:
        DataError: The folder lacks one of the files.
        ConfigError: A change is no legal value.
    """
    changes = {"bootstrap": bootstrap, "confidence": confidence}
    report = load_report(folder, {name: value for name, value in changes.items() if value is not None})
    out.mkdir(parents=True, exist_ok=True)
    write_report(report, out)
    return out / REPORT_PAGE


def _changed(settings: EvaluationConfig, changes: Mapping[str, Any]) -> EvaluationConfig:
    try:
        return EvaluationConfig.model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        settings_text = ", ".join(f"{name} = {value}" for name, value in changes.items())
        raise ConfigError(
            settings_text,
            error.errors()[0]["msg"],
            "`softgrpo config --settings` lists what is legal",
            code="CONFIG-043",
        ) from error


def _comparison(folder: Path, stored: Mapping[str, Any], config: ExperimentConfig) -> Comparison:
    table, measured = pd.read_parquet(folder / TABLE), WindowMetrics.of(pd.read_parquet(folder / WINDOWS))
    weights = dict(tuple(pd.read_parquet(folder / WEIGHTS).groupby("method", sort=False)))
    recallers = list(config.recall.recallers)
    alone = torch.ones(len(measured.windows), 1, dtype=torch.float64)  # of a ranker, see `Method.weights`
    methods = tuple(
        Method(
            row["method"],
            row["label"],
            row["kind"],
            torch.tensor(weights[row["method"]][recallers].to_numpy()) if row["method"] in weights else alone,
        )
        for row in table.to_dict("records")
    )
    return Comparison(table, measured, methods, stored["best_single"], stored["best_static"])


def _with_other_draws(comparison: Comparison, config: ExperimentConfig) -> Comparison:
    references = {"vs_single": comparison.best_single, "vs_static": comparison.best_static}
    rows = comparison.table[["method", "label", "kind"]]
    primary = f"ndcg@{config.fusion.k}"
    table = tabulate(rows, comparison.measured, references, primary, config.evaluation, config.seed)
    return replace(comparison, table=table)


def _case(stored: Mapping[str, Any]) -> Case:
    lists = {name: tuple(Shown(**shown) for shown in stored[name]) for name in ("merged", "reference")}
    texts = {name: tuple(stored[name]) for name in ("latest", "targets", "weights")}
    return Case(**{**stored, **lists, **texts})
