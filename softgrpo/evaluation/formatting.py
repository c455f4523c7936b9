"""A comparison table in words and on a terminal; it needs no torch, so that a run of which all is stored shows it at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from softgrpo.common.text import visible
from softgrpo.config import TABLE_KS
from softgrpo.evaluation.significance import smallest_p


@dataclass(frozen=True)
class LeastP:
    """The smallest p-value that a table can show.

    Attributes:
        value: The p-value, corrected over all tests of the table.
        draws: Of the bootstrap.
    """

    value: float
    draws: int


def least_p(table: pd.DataFrame, draws: int) -> LeastP:
    """Returns the smallest p-value that a table can show: as many tests as it has p-values, from so many bootstrap draws."""
    tests = int(table.filter(regex="^vs_.*_p$").notna().to_numpy().sum())
    return LeastP(smallest_p(tests, draws), draws)


def verdict(row: Mapping[str, Any], reference: str, name: str, k: int, least: LeastP) -> str:
    """Says in one sentence what a row's comparison shows; a p-value of 0.05 or more is called what it is.

    Args:
        row: A row of `Comparison.table`.
        reference: `vs_single` or `vs_static`.
        name: What the reference is called.
        k: Cut-off of the NDCG.
        least: See `least_p`.
    """
    difference, p = row[reference], row[f"{reference}_p"]
    interval = signed_interval(row[f"{reference}_low"], row[f"{reference}_high"])
    if math.isnan(p):
        return f"{row['label']} is not tested against {name}."
    if difference == row[f"{reference}_low"] == row[f"{reference}_high"] == 0:
        return f"{row['label']} has the same NDCG@{k} as {name} for every user."
    relative = percent(row[f"{reference}_relative"])
    share = f" ({relative})" if relative else ""
    tested = f"p = {p:.2g}"
    if row.get(f"{reference}_p_bound", False):
        tested = f"p ≤ {p:.2g} (the least that {least.draws:,} draws can show)"
    numbers = f"{signed(difference)} NDCG@{k}{share}, interval {interval}, corrected {tested}"
    if least.value >= 0.05:
        return f"Too few bootstrap draws to tell {row['label']} from {name}: {numbers}."
    if p >= 0.05:
        return f"{row['label']} cannot be told apart from {name}: {numbers}."
    return f"{row['label']} is {'better' if difference > 0 else 'worse'} than {name}: {numbers}."


def render_terminal(
    table: pd.DataFrame, k: int = 10, reference: str = "the best single recaller", column: str = "vs_single"
) -> Table:
    """Returns the comparison table for a terminal: NDCG at k, 10 and 20, Recall at 10 and 20.

    Args:
        table: `Comparison.table`.
        k: Cut-off that the differences are about.
        reference: What the differences are against.
        column: Prefix of the columns of those differences.
    """
    shown = [f"ndcg@{cutoff}" for cutoff in sorted({k, *TABLE_KS})] + [f"recall@{cutoff}" for cutoff in TABLE_KS]
    title = f"Test windows, means over users; Δ in NDCG@{k} against {reference}"
    rich = Table(title=title, title_justify="left")
    rich.add_column("method", no_wrap=True)
    spread = f"ndcg@{k}_spread"  # of a table over seeds
    for name in (*shown, *(["± seeds"] if spread in table else []), "Δ", "Δ %", "interval", "p (Holm)"):
        rich.add_column(heading(name), justify="right", no_wrap=True)
    for row in table_rows(table):
        delta = ["", "", "", ""]
        if not math.isnan(row[column]):
            delta = [
                signed(row[column]),
                percent(row[f"{column}_relative"]),
                signed_interval(row[f"{column}_low"], row[f"{column}_high"]),
                p_value(row[f"{column}_p"], row.get(f"{column}_p_bound", False)),
            ]
        style = {"gate": "green", "ranker": "magenta", "learned": "bold", "oracle": "dim"}.get(row["kind"], "")
        numbers = [f"{row[name]:.4f}" for name in (*shown, *([spread] if spread in row else []))]
        rich.add_row(Text(visible(row["label"])), *numbers, *delta, style=style)
    return rich


def table_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns each row by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def signed(value: float, digits: int = 4) -> str:
    """Returns a difference with its sign as `+0.0123`; what rounds to zero has none, as `0.0000`; "" for nan.

    Args:
        value: The difference.
        digits: Decimals.
    """
    return _without_sign_of_zero(f"{value:+.{digits}f}")


def signed_interval(low: float, high: float, digits: int = 4) -> str:
    """Returns an interval as `[-0.0010, +0.0123]`, see `signed`; "" for nan."""
    return "" if math.isnan(low) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def percent(share: float) -> str:
    """Returns a relative difference as `+1.5%`, what rounds to zero as `0.0%`, "" for nan and infinity."""
    return _without_sign_of_zero(f"{share:+.1%}") if math.isfinite(share) else ""


def fixed(value: float, digits: int) -> str:
    """Returns a number with some decimals, "" for nan."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def share(value: float) -> str:
    """Returns a share of a whole as `12 %`, "" for nan."""
    return "" if math.isnan(value) else f"{value:.0%}".replace("%", " %")


def _without_sign_of_zero(text: str) -> str:
    """Takes the sign off a formatted number of which all digits are zero, and returns "" for nan."""
    if "nan" in text:
        return ""
    return text if any(digit in text for digit in "123456789") or "inf" in text else text.lstrip("+-")


def p_value(value: float, bound: bool = False) -> str:
    """Returns a p-value with four digits, "" for nan.

    Args:
        value: The p-value.
        bound: Whether it is as small as the draws allow: then it is shown as `≤ 0.0076`.
    """
    if math.isnan(value):
        return ""
    if value < 0.0001:
        return "< 0.0001"
    return f"≤ {value:.4f}" if bound else f"{value:.4f}"


def heading(name: str) -> str:
    """Returns the name of a metric as people write it."""
    return name.replace("ndcg", "NDCG").replace("recall@", "Recall@").replace("hit@", "Hit@").replace("mrr", "MRR")
