"""The few numbers of a pipeline's run to look at first, of the hundreds that its stages have.

MLflow groups charts by the text before the last `/` of a metric's name, in alphabetical order with capitals first, and the runs
table shows names as headings of narrow columns. So the results are called `NDCG/SofT-GRPO` and come first; everything else is with
the runs of the stages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from softgrpo.common.artifacts import CURVES
from softgrpo.evaluation.summary import Summary, read_summary
from softgrpo.pipeline.run import read_metrics
from softgrpo.reporting import BEST_METRIC

RESULT = "NDCG"
SINGLE, STATIC, SFT, GRPO = (f"{RESULT}/{name}" for name in ("best single", "best static", "SFT", "SofT-GRPO"))
"""The metrics of the comparison of single recallers with mixtures, at the cut-off of the run."""
VS_SINGLE, VS_STATIC = "vs best single", "vs best static"
"""Tags: the gain of SofT-GRPO with its interval, as text."""
BEST_METHOD = "best_method"
"""Tag: key of the row that validation windows choose, of all that can be used on new windows."""
TEST = "test"
DIGITS = 4
WHOLE_PERCENT = 10
"""From here on shares are shown without decimals."""
POLICIES = {"sft": "SFT", "grpo": "SofT-GRPO"}
REFERENCES = {VS_SINGLE: "vs_single", VS_STATIC: "vs_static"}


@dataclass(frozen=True)
class Line:
    """One line of the small table that describes a run.

    Attributes:
        label: Name of the row on pages.
        ndcg: Mean NDCG over users.
        gains: Gain over the best single recaller and over the best static mixture, "" for what is compared with itself.
    """

    label: str
    ndcg: float
    gains: tuple[str, str]


def headline(
    metrics: Mapping[str, float], summary: Summary | None, k: int, recallers: Sequence[str]
) -> dict[str, float]:
    """Returns the metrics of the stage `test` that the pipeline's run shows; `NDCG/...` with four digits, to fit into columns.

    Args:
        metrics: All metrics of the stage, `<metric>/<method>`.
        summary: What is best, None where an earlier version made the stage.
        k: Cut-off of the run.
        recallers: The pool.

    Returns:
        `NDCG/<name>` for the recallers, the best of them, the best static mixture and the policies; `ndcg@k/<method>` for every
        method; `vs_.../<method>` for the policies.
    """
    multi = tuple(f"/{stage}_multi" for stage in POLICIES)
    shown = {
        name: value
        for name, value in metrics.items()
        if name.startswith(f"ndcg@{k}/") or (name.startswith("vs_") and name.endswith(multi))
    }
    named = {GRPO: "grpo_multi", SFT: "sft_multi"}
    if summary is not None:
        named |= {STATIC: summary.best_static, SINGLE: summary.best_single}
    named = named | {f"{RESULT}/{name}": name for name in recallers} | named  # a recaller may be called as one of them
    scores = {name: metrics.get(f"ndcg@{k}/{key}") for name, key in named.items()}
    return {name: round(score, DIGITS) for name, score in scores.items() if score is not None} | shown


def readable(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """Returns the comparison table for readers: labels, NDCG at k and the differences first, numbers with four digits.

    Args:
        table: `Comparison.table`.
        k: Cut-off of the run.
    """
    first = ["label", f"ndcg@{k}", *(name for name in table if str(name).startswith("vs_static"))]
    first += [name for name in table if str(name).startswith("vs_single")]
    order = [name for name in first if name in table]
    return table[[*order, *(name for name in table if name not in order)]].round(DIGITS)


def results(folders: Mapping[str, Path], k: int, recallers: Sequence[str]) -> dict[str, float]:
    """Returns the metrics of a pipeline's run, the most important first: MLflow's page of two runs begins with the first.

    Args:
        folders: Payload of each finished stage, by node name.
        k: Cut-off of the run.
        recallers: The pool.
    """
    metrics: dict[str, float] = {}
    if TEST in folders:
        metrics |= headline(read_metrics(folders[TEST]), read_summary(folders[TEST]), k, recallers)
    for stage in POLICIES:
        if stage in folders:
            metrics |= validation(read_metrics(folders[stage]), stage)
    return metrics


def validation(metrics: Mapping[str, float], stage: str) -> dict[str, float]:
    """Returns the metric of the stage `sft` or `grpo` that the pipeline's run shows: the best NDCG on validation windows."""
    return {f"validation NDCG/{POLICIES[stage]}": metrics["best_ndcg"]}


def learning_curve(folder: Path, stage: str) -> list[tuple[str, float, int]]:
    """Returns NDCG on validation windows by step, of the stage `sft` or `grpo`, each (name, value, step).

    Args:
        folder: Payload of the stage.
        stage: sft or grpo.
    """
    path = folder / CURVES
    points = json.loads(path.read_text(encoding="utf-8")).get(BEST_METRIC) if path.is_file() else None
    if points is None:
        return []
    name = f"learning curve/{POLICIES[stage]}"
    return [(name, value, int(step)) for step, value in zip(points["step"], points["value"], strict=True)]


def gain(metrics: Mapping[str, float], method: str, reference: str, base: float) -> str:
    """Returns a method's gain over a reference as text, for example `+3.2% [+0.1, +6.4]`, `+33% [+18, +52]` or `no difference`.

    Args:
        metrics: All metrics of the stage `test`.
        method: Key of the row.
        reference: `vs_single` or `vs_static`.
        base: NDCG of the reference; where that is 0, differences are shown and not shares.

    Returns:
        The text, "" where the row is not compared.
    """
    names = [f"{reference}{piece}/{method}" for piece in ("", "_low", "_high")]
    if any(name not in metrics for name in names):
        return ""
    difference, low, high = (metrics[name] for name in names)
    if difference == low == high == 0:
        return "no difference"
    if base <= 0:
        return f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]"
    shares = [100 * value / base for value in (difference, low, high)]
    digits = 1 if max(map(abs, shares)) < WHOLE_PERCENT else 0
    middle, least, most = (f"{share:+.{digits}f}" for share in shares)
    return f"{middle}% [{least}, {most}]"


def headline_tags(metrics: Mapping[str, float], summary: Summary) -> dict[str, str]:
    """Returns as tags the gain of the policy that a run is about over both references, and what validation windows chose."""
    gains = {tag: _gain(metrics, summary, summary.focus, vs) for tag, vs in REFERENCES.items()}
    return gains | ({BEST_METHOD: summary.best_method} if summary.best_method else {})


def lines(metrics: Mapping[str, float], summary: Summary, recallers: Sequence[str]) -> list[Line]:
    """Returns the small table of a run: the recallers, the best static mixture, the policies."""
    rows = {name: f"{name}, the best single recaller" if name == summary.best_single else name for name in recallers}
    rows |= {summary.best_static: "Best static mixture"}
    rows |= {f"{stage}_multi": label for stage, label in POLICIES.items()}
    table = []
    for key, label in rows.items():
        name = f"ndcg@{summary.k}/{key}"
        if name in metrics:
            single, static = (_gain(metrics, summary, key, vs) for vs in REFERENCES.values())
            table.append(Line(label, metrics[name], (single, static)))
    return table


def _gain(metrics: Mapping[str, float], summary: Summary, method: str, vs: str) -> str:
    key = summary.best_single if vs == "vs_single" else summary.best_static
    return gain(metrics, method, vs, metrics.get(f"ndcg@{summary.k}/{key}", 0.0))
