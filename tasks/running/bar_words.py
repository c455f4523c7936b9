"""What a progress bar says, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softgrpo.reporting import BEST_METRIC

NUMBERS = {BEST_METRIC: "validation NDCG"}
"""Labels of numbers that a bar carries; all others keep their names."""


def in_words(bar: Mapping[str, Any]) -> str:
    """Returns the progress of a bar in words, such as `SFT: step 12 of 40, loss 0.5312, about 2 min left`.

    Args:
        bar: `format_dict` of a bar that has a total.
    """
    numbers = [part.partition("=") for part in (bar["postfix"] or "").split(", ") if part]
    parts = [f"{bar['unit']} {bar['n']:,} of {bar['total']:,}"]
    parts += [f"{NUMBERS.get(name, name)} {value}" for name, _, value in numbers]
    if (left := seconds_left(bar)) is not None:
        parts.append(f"about {duration(left)} left")
    label = (bar["prefix"] or "").removesuffix(": ")
    return f"{label}: {', '.join(parts)}" if label else ", ".join(parts)


def seconds_left(bar: Mapping[str, Any]) -> float | None:
    """Returns the seconds until a bar ends, at its speed up to now; None where it has not moved."""
    steps = bar["n"] - bar["initial"]
    rate = bar["rate"] or (steps / bar["elapsed"] if bar["elapsed"] else 0.0)
    return float((bar["total"] - bar["n"]) / rate) if rate > 0 else None


def duration(seconds: float) -> str:
    """Returns a time in words: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
