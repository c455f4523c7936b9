"""In which settings runs differ, in words."""

from __future__ import annotations

from collections.abc import Mapping

NO_NUMBER = ("limits.stage_hours", "data.data_path", "data.download")
"""Settings that change no number."""


def differing(settings: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Says of each run behind the first in which settings it differs from that one.

    Args:
        settings: The settings of each run by dotted path, by what the run is called.
    """
    (first, base), *others = settings.items()
    return tuple(_sentence(name, values, first, base) for name, values in others)


def _sentence(name: str, values: Mapping[str, str], first: str, base: Mapping[str, str]) -> str:
    unequal = [path for path in dict.fromkeys([*base, *values]) if base.get(path) != values.get(path)]
    found = [path for path in unequal if path not in NO_NUMBER]
    if not found:
        return f"{name} has the settings of {first}."
    changes = [f"{path} ({values.get(path, 'unset')}, not {base.get(path, 'unset')})" for path in found]
    return f"{name} differs from {first} in {', '.join(changes)}."
