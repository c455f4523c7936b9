"""What the jobs of several sub-commands have in common: their type, JSON, counts, notes."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from softgrpo.common.text import visible, visible_json

Job = Callable[[], int]
"""What a sub-command does once its arguments have been checked; returns the exit code."""


def print_json(value: Any) -> None:
    """Prints what a machine reads: JSON, in the order in which it was made.

    What a reader cannot see is escaped, and all but ASCII where the output is not in UTF-8.
    """
    print(visible_json(json.dumps(value, indent=2, ensure_ascii=codecs.lookup(sys.stdout.encoding).name != "utf-8")))


def print_notes(notes: Iterable[str]) -> None:
    """Prints notes on standard error, each of them once: variants of one experiment have most notes in common."""
    printed: set[str] = set()
    for note in notes:
        if note not in printed:
            printed.add(note)
            print(f"note: {visible(note)}", file=sys.stderr)
