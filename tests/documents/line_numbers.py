"""Line numbers in the documents: "`name` in `file.py:12`" says where a function, method or class is defined.

`python -m tests.documents.line_numbers` writes the right numbers into every document.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = re.compile(r"`([\w.]+)`(\s+in\s+)`([\w/]+\.py):(\d+)`")


def definitions(source: str) -> dict[str, int]:
    """Returns the line of each `def` and `class` by its dotted name, e.g. `Policy`, `Policy.load`."""
    found: dict[str, int] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                found[prefix + child.name] = child.lineno
                inner = f"{prefix}{child.name}."
            visit(child, inner)

    visit(ast.parse(source), "")
    return found


def with_lines(text: str, root: Path = ROOT) -> str:
    """Returns a document with the right line numbers.

    Args:
        text: The document.
        root: Folder that its paths start from.

    Raises:
        KeyError: A file does not define what the document says it does.
    """

    def correct(match: re.Match[str]) -> str:
        name, between, file, _ = match.groups()
        return f"`{name}`{between}`{file}:{definitions((root / file).read_text(encoding='utf-8'))[name]}`"

    return REFERENCE.sub(correct, text)


if __name__ == "__main__":
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        written = path.read_text(encoding="utf-8")
        if (right := with_lines(written)) != written:
            path.write_text(right, encoding="utf-8")
