"""Which figures a report has, with what is to be seen in each; a figure that would show nothing is replaced by its sentence.

Legend: W windows, U users, M recallers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softgrpo.evaluation import plots, plots_recallers
from softgrpo.evaluation.cases import gains
from softgrpo.evaluation.learnt import EQUAL, NEGLIGIBLE
from softgrpo.evaluation.notes import largest_weight_note
from softgrpo.evaluation.plot_style import save
from softgrpo.evaluation.report_content import Report
from softgrpo.evaluation.significance import per_user

HALF_INCHES, WHOLE_INCHES = 6.8, 8.6
"""Width of a figure that has another one beside it, and of one that has not."""
LOSS, QUALITY = "recall_loss", "recall_valid_ndcg"
"""Curves of a recaller's training, see `softgrpo.recallers.recbole_training.fit`."""


@dataclass(frozen=True)
class Drawn:
    """One figure of a report, or the sentence in its place.

    Attributes:
        anchor: Where links lead to; the name of the files too.
        title: Heading.
        caption: What is to be seen.
        path: The SVG file, with a PNG file of the same name beside it; None where there is nothing to draw.
        narrow: Whether two such figures fit beside each other.
    """

    anchor: str
    title: str
    caption: str
    path: Path | None
    narrow: bool


Planned = tuple[str, str, str, Figure | None]
"""Anchor, title, caption and figure."""


def draw_figures(report: Report, folder: Path) -> tuple[Drawn, ...]:
    """Draws all figures of a report into a folder, in the order of the page."""
    return tuple(_drawn(planned, folder) for planned in _planned(report))


def _drawn(planned: Planned, folder: Path) -> Drawn:
    anchor, title, caption, figure = planned
    narrow = _is_narrow(figure)  # before it is saved: that leaves it in the form for phones
    return Drawn(anchor, title, caption, None if figure is None else save(figure, folder, anchor), narrow)


def _is_narrow(figure: Figure | None) -> bool:
    return figure is not None and figure.get_figwidth() <= HALF_INCHES


def _planned(report: Report) -> Iterator[Planned]:
    yield _comparison(report)
    if report.lift is not None:
        yield _lift(report)
    yield from _gains(report)
    if report.coverage is not None:
        yield _coverage(report)
    yield _weights(report)
    if report.lift is not None:  # an earlier version stored neither
        yield _drivers(report)
    if report.recaller_curves:
        yield _recallers(report.recaller_curves)
    if report.sft_curves:
        yield _training("sft", report.sft_curves)
    yield _confusion(report)
    yield _training("training", report.curves)


def _comparison(report: Report) -> Planned:
    k, confidence = report.config.fusion.k, report.config.evaluation.confidence
    caption = (
        f"First panel: NDCG@{k} of every row, mean over users; longer is better. The other panels: the difference to a reference "
        f"with its {confidence:.0%} interval; a bar that crosses 0 shows no difference."
    )
    return "comparison", "All rows at a glance", caption, plots.comparison_figure(report.comparison.table, k)


def _lift(report: Report) -> Planned:
    assert report.lift is not None
    lift, title = report.lift, "Lift at k"
    label, references, flat = lift.label, list(lift.ndcg.columns[1:]), lift.flat
    if len(flat) == len(references):
        names = " and ".join(references)
        return "lift", title, f"{label}, {names} have the same NDCG@k at every k: there is no lift to show.", None
    equal = f" {label} and {' and '.join(flat)} have the same NDCG@k at every k: no line for that." if flat else ""
    intervals = (
        "There are no intervals in this figure: an earlier version stored none."
        if lift.low is None
        else f"Bands are {lift.confidence:.0%} intervals of one k each, from a paired bootstrap over users ({lift.draws:,} draws)."
    )
    caption = (
        f"NDCG@k of {label} and of its references for every length k of the list, and how many per cent larger it is. Above 0 is "
        f"better. {intervals}{equal}"
    )
    return "lift", title, caption, plots.lift_figure(lift)


def _gains(report: Report) -> Iterator[Planned]:
    """The distribution of the gain over users, and its mean by the length of the history and by how well known the targets are."""
    comparison, k = report.comparison, report.config.fusion.k
    label = comparison.method(report.focus).label
    keys = {"the best single recaller": comparison.best_single, "the best static mixture": comparison.best_static}
    by_window = {name: gains(comparison, report.focus, key, f"ndcg@{k}") for name, key in keys.items()}
    titles = {"gains": "Who gains and who loses", "history": "Gain by length of the history"}
    if report.popularity is not None:
        titles["popularity"] = "Gain by popularity of the targets"
    moving = {name: values for name, values in by_window.items() if np.abs(values).max() > EQUAL}
    if not moving:
        nothing = f"{label} gives every user the NDCG@{k} of both references: no user gains, none loses."
        yield from ((anchor, title, nothing, None) for anchor, title in titles.items())
        return
    by_user = {name: per_user(values, comparison.measured.users) for name, values in moving.items()}
    equal = "".join(f" Over {name} nobody gains and nobody loses." for name in by_window if name not in moving)
    shares = " ".join(f"Over {name}, {_shares(values)}." for name, values in by_user.items())
    inches = HALF_INCHES if report.popularity is None else WHOLE_INCHES  # two of the three stand beside each other
    yield "gains", titles["gains"], f"{shares}{equal}", plots.gains_figure(by_user, label, k, inches)
    caption = (
        f"Mean gain in NDCG@{k} in fifths of the users by the number of items they had before, with intervals. "
        f"Left are the users with the shortest histories.{equal}"
    )
    evaluation, seed = report.config.evaluation, report.config.seed
    figure = plots.fifths_figure(moving, report.history, "items in the history", label, evaluation, seed)
    yield "history", titles["history"], caption, figure
    if report.popularity is not None:
        caption = (
            f"Mean gain in NDCG@{k} in fifths of the users by how often their targets occur in the recallers' training part (mean "
            f"over a user's targets), with intervals. Left are the users who chose the least known items.{equal}"
        )
        known = "training interactions of a target"
        figure = plots.fifths_figure(moving, report.popularity, known, label, evaluation, seed)
        yield "popularity", titles["popularity"], caption, figure


def _shares(values: NDArray[np.float64]) -> str:
    """Says how many users gain and lose; values (U,)."""
    up, down = float((values > EQUAL).mean()), float((values < -EQUAL).mean())
    return f"{up:.1%} of the users gain, {down:.1%} lose and {1 - up - down:.1%} see no difference"


def _coverage(report: Report) -> Planned:
    assert report.coverage is not None
    coverage, depth = report.coverage, report.config.recall.depth
    title = "What each recaller finds"
    if not coverage.found:
        return "coverage", title, coverage.sentence, None
    caption = (
        f"First panel: targets of the test windows in each recaller's list of {depth} items, and those of them that no other "
        f"recaller's list holds. Second: how many of one recaller's hits another one finds too. {coverage.sentence}"
    )
    return "coverage", title, caption, plots_recallers.coverage_figure(coverage)


def _weights(report: Report) -> Planned:
    recallers = report.config.recall.recallers
    rows = [row for row in report.comparison.methods if row.kind == "gate" or row.key in ("sft_multi", report.focus)]
    spread = {row.label: row.weights.numpy() for row in rows if np.ptp(row.weights.numpy(), axis=0).max() > NEGLIGIBLE}
    uniform = [row for row in rows if row.label not in spread]
    equal = [
        f"{row.label} gives every user the same weights ({_mixture(recallers, row.weights.numpy()[0])})."
        for row in uniform
        if row.kind == "learned"
    ]
    if gates := [row.label for row in uniform if row.kind == "gate"]:
        equal.append(f"Rows without the language model that give every user the same weights: {'; '.join(gates)}.")
    title = "How weights are spread over users"
    if not spread:
        return "weights", title, " ".join(equal), None
    caption = " ".join(
        [
            "Boxes hold the middle half of the windows, whiskers reach from 5 to 95 %, diamonds are means. A narrow box means "
            "nearly the same weight for everybody.",
            *equal,
        ]
    )
    return "weights", title, caption, plots_recallers.weights_figure(spread, recallers)


def _mixture(recallers: tuple[str, ...], weights: NDArray[np.float64]) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in zip(recallers, weights, strict=True))


def _drivers(report: Report) -> Planned:
    label = report.comparison.method(report.focus).label
    title = "What drives the weights"
    if report.drivers is None:
        return (
            "drivers",
            title,
            f"The weights of {label} do not differ between users by more than {NEGLIGIBLE:g}: nothing drives them.",
            None,
        )
    weights = report.comparison.method(report.focus).weights.numpy()
    widest = float(np.ptp(weights, axis=0).max())
    caption = (
        f"The weight of one recaller differs by at most {widest:.4f} between two users. First panel: Spearman's rank correlation "
        f"between what is known of a window and the weights of {label}, the strongest first; blue is negative. The rest: "
        f"mean weights in fifths of the windows. {report.drivers.sentence}"
    )
    return "drivers", title, caption, plots_recallers.drivers_figure(report.drivers)


def _confusion(report: Report) -> Planned:
    title = "Choices of SFT on validation windows"
    if not report.confusion.to_numpy().any():
        nothing = "SFT was not evaluated on a validation window in which some recaller finds a target."
        return "confusion", title, nothing, None
    caption = (
        "Each cell counts validation windows by the recaller with the best list (row) and the one that SFT gave the largest weight "
        "(column). The diagonal is right; one filled column means one answer for everybody. "
        f"{largest_weight_note(report.merge)}"
    ).rstrip()
    return "confusion", title, caption, plots.confusion_figure(report.confusion)


TRAININGS = {
    "sft": (
        "Training of SFT",
        "Loss on training windows, and the NDCG on validation windows that the kept model has.",
    ),
    "training": (
        "Training of SofT-GRPO",
        "Step 0 is where SFT ended. The model of the highest validation NDCG is kept.",
    ),
}
"""Anchor -> title and caption."""


def _training(anchor: str, curves: Mapping[str, pd.DataFrame]) -> Planned:
    title, caption = TRAININGS[anchor]
    if any(len(frame) > 1 for frame in curves.values()):
        return _curves(anchor, title, caption, curves)
    return anchor, title, "No step was taken: this training was left out, and the model is the one before it.", None


def _curves(anchor: str, title: str, caption: str, curves: Mapping[str, pd.DataFrame]) -> Planned:
    """The curves of one training; one that has the same value at every step is told in words."""
    constant = {
        name: float(frame["value"].iloc[0])
        for name, frame in curves.items()
        if len(frame) > 1 and np.ptp(frame["value"]) <= EQUAL
    }
    moving = {name: frame for name, frame in curves.items() if name not in constant}
    words = "; ".join(f"{name} {0 if abs(value) <= EQUAL else value:.4g}" for name, value in constant.items())
    same = f"The same at every step: {words}." if words else ""
    if not moving:
        return anchor, title, same, None
    axes = "The horizontal axes count optimiser steps."
    return anchor, title, " ".join(filter(None, (caption, axes, same))), plots_recallers.curves_figure(moving)


def _recallers(curves: Mapping[str, Mapping[str, pd.DataFrame]]) -> Planned:
    """The trainings of the recallers: loss relative to the first epoch, and NDCG on held-back items."""
    relative = {
        name: frame.assign(value=frame["value"] / frame["value"].iloc[0])
        for name, lines in curves.items()
        if (frame := lines.get(LOSS)) is not None and len(frame) and frame["value"].iloc[0] > 0
    }
    quality = {name: lines[QUALITY] for name, lines in curves.items() if QUALITY in lines}
    panels = {"loss, first epoch = 1": relative, "NDCG on held-back items": quality}
    shown = {title: lines for title, lines in panels.items() if any(len(frame) > 1 for frame in lines.values())}
    title = "Training of the recallers"
    if not shown:
        return "recallers", title, "No recaller was trained for more than one epoch: there is no curve.", None
    single = [name for name in curves if all(len(lines.get(name, ())) <= 1 for lines in shown.values())]
    only = f" {', '.join(single)}: one epoch, a single point." if single else ""
    caption = (
        "Each recaller learns from its own part of the data; the model of the best epoch on held-back items is kept. A loss that "
        f"still falls while NDCG does not is overfitting.{only}"
    )
    return "recallers", title, caption, plots_recallers.recaller_curves_figure(shown)
