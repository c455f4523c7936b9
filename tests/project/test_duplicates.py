"""No run of equal lines that a function would serve."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = 6
"""As many equal lines in a row are a function that was not written."""


def code_lines(text: str) -> list[tuple[int, str]]:
    """Returns the lines of bodies, number and text without spaces around it.

    Left out are imports, docstrings, comments, and the heads of functions: libraries read the parameters of flows and callbacks,
    which have to be written out.
    """
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(_lines_of(node.lineno, node.end_lineno))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            left_out.update(_lines_of(node.lineno, node.body[0].lineno - 1))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.update(_lines_of(node.lineno, node.end_lineno))
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if number not in left_out)
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _lines_of(first: int, last: int | None) -> Iterable[int]:
    return range(first, (last or first) + 1)


def equal_runs(sources: Mapping[str, str]) -> list[list[str]]:
    """Returns the places, `name:line`, of each run of lines that stands in more than one place.

    Args:
        sources: Name of a module -> its text.
    """
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, text in sources.items():
        lines = code_lines(text)
        for start in range(len(lines) - LINES + 1):
            window = lines[start : start + LINES]
            places[tuple(line for _, line in window)].append(f"{name}:{window[0][0]}")
    return [found for found in places.values() if len(found) > 1]


def test_no_lines_stand_in_two_places() -> None:
    paths = [path for layer in ("softgrpo", "tasks", "flows") for path in (ROOT / layer).rglob("*.py")]
    assert equal_runs({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}) == []


def test_equal_lines_are_seen_wherever_they_stand() -> None:
    body = "".join(f"    a{number} = {number}\n" for number in range(LINES))
    head = "def {}(\n    a,\n    b,\n    c,\n    d,\n    e,\n):\n"
    first, second = head.format("f") + body, "x = 1\n" + head.format("g") + "    # a comment\n" + body
    assert equal_runs({"one": first, "two": second}) == [["one:8", "two:10"]]
    assert equal_runs({"one": first, "two": second.replace("a3", "b3")}) == []
