"""The page of all errors, `docs/reference/errors.md`, which is also the one snapshot of their messages.

`python -m tests.documents.errors` writes it from the places that make errors. A code that no place has any longer moves to the
page's last section, and no other error gets it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from softgrpo import errors
from softgrpo.errors import SoftGRPOError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/errors.md"
FOLDERS = ("benchmarks", "deployments", "flows", "softgrpo", "tasks")
CLASSES = {name: kind for name, kind in vars(errors).items() if kind in SoftGRPOError.__subclasses__()}
CODE = r"[A-Z]+-\d{3}"
NAMES = {"SoftGRPOError", *CLASSES}
RETIRED = "## Retired"
HEAD = """# Errors

Every message of an error ends with its code. Each code has one row here: what was received, the rule that it breaks, the
remedy, and the module that says so. `{name}` stands for a value, `{...}` for a longer part that depends on the case, and ` / `
stands between alternatives. A code never changes its meaning and is never given twice.

Made by `python -m tests.documents.errors`.
"""


@dataclass(frozen=True)
class Site:
    """A place that makes an error.

    Attributes:
        kind: Name of the error's class.
        path: The file, relative to the repository.
        line: The line, 1-based.
        code: Its code; None where it has none, or one that is no literal.
        passed_on: Whether the code is that of another error, which this one tells in other words.
        texts: Received, rule and remedy, with what is only known at run time in braces.
    """

    kind: str
    path: str
    line: int
    code: str | None
    passed_on: bool
    texts: tuple[str, ...]


def prefix(kind: str) -> str:
    """Returns what the codes of a class begin with, e.g. `TIME` for `TimeLimitError`."""
    return kind.removesuffix("Error").removesuffix("Limit").upper()


Texts = dict[str, list[str]]
"""What a name may hold at some place of the code: one text, or several alternatives."""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _constants(path: Path) -> Texts:
    """Returns the texts that a module gives a name at its top level."""
    known: Texts = {}
    for node in _tree(path).body:
        if isinstance(node, ast.Assign):
            _assign(node, known)
    return known


@cache
def _module(path: Path) -> Texts:
    """Returns a module's texts by name, those that it imports from another module of ours among them."""
    known = _constants(path)
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FOLDERS:
            other = ROOT / f"{node.module.replace('.', '/')}.py"
            theirs = _constants(other) if other.is_file() else {}
            known |= {alias.name: theirs[alias.name] for alias in node.names if alias.name in theirs}
    return known


def _assign(node: ast.Assign, known: Texts) -> None:
    """Notes what an assignment to one name says."""
    if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        text = _text(node.value, known)
        known[node.targets[0].id] = [text] if text != "{...}" else []


def _text(node: ast.expr, known: Texts) -> str:
    """Returns what an expression says."""
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, known) for part in parts)
        case ast.FormattedValue(value=value):
            return _text(value, known)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, known) + _text(right, known)
        case ast.IfExp(body=one, orelse=other):
            return " / ".join(part for part in (_text(one, known), _text(other, known)) if part)
        case ast.Name(id=name):
            return " / ".join(known.get(name) or [f"{{{name}}}"])
        case ast.Attribute(attr=name):
            return f"{{{name}}}"
        case _:
            return "{...}"


def _walk(body: list[ast.stmt], known: Texts) -> Iterator[tuple[ast.Call, Texts]]:
    """Gives the calls that make errors, each with the texts that names hold there; `known` follows the assignments."""
    for node in body:
        blocks = _blocks(node)
        inside = {id(child) for block in blocks for each in block for child in ast.walk(each)}
        for child in ast.walk(node):
            if id(child) not in inside and isinstance(child, ast.Call) and getattr(child.func, "id", None) in NAMES:
                yield child, known
        if isinstance(node, ast.Assign):
            _assign(node, known)
        always = isinstance(node, ast.With) or (isinstance(node, ast.If) and node.orelse)
        ends = [] if always else [known]
        for block in blocks:
            end = {name: texts for name, texts in known.items() if name not in _parameters(node)}
            yield from _walk(block, end)
            if not isinstance(block[-1], ast.Raise | ast.Return | ast.Continue | ast.Break):
                ends.append(end)
        if blocks and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            for name in {name for end in ends for name in end}:
                known[name] = list(dict.fromkeys(text for end in ends for text in end.get(name, [])))


def _blocks(node: ast.stmt) -> list[list[ast.stmt]]:
    """Returns the blocks of a compound statement: those of its branches, handlers and cases."""
    lists = [value for _, value in ast.iter_fields(node) if isinstance(value, list)]
    own = [each for each in lists if each and isinstance(each[0], ast.stmt)]
    return own + [part.body for each in lists for part in each if isinstance(part, ast.ExceptHandler | ast.match_case)]


def _parameters(node: ast.stmt) -> set[str]:
    if not isinstance(node, ast.FunctionDef):
        return set()
    return {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}


def sites() -> list[Site]:
    """Returns all places that make errors, by path and line."""
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [_site(path, call, known) for path in files for call, known in _walk(_tree(path).body, dict(_module(path)))]


def _site(path: Path, call: ast.Call, known: Texts) -> Site:
    words = {keyword.arg: keyword.value for keyword in call.keywords}
    code = words.pop("code", None)
    assert isinstance(call.func, ast.Name)
    return Site(
        kind=call.func.id,
        path=path.relative_to(ROOT).as_posix(),
        line=call.lineno,
        code=code.value if isinstance(code, ast.Constant) and isinstance(code.value, str) else None,
        passed_on=isinstance(code, ast.Attribute) and code.attr == "code",
        texts=tuple(" ".join(_text(part, known).split()) for part in (*call.args, *words.values())),
    )


def page(found: list[Site], before: str) -> str:
    """Returns the page.

    Args:
        found: All places that make errors.
        before: The page as it was; its codes that are in no place now are retired.
    """
    coded = sorted((site.code, site) for site in found if site.code is not None)
    parts = [HEAD]
    for kind in sorted(CLASSES):
        rows = [_row(code, site) for code, site in coded if site.kind == kind]
        title = f"## {kind}\n\n{str(CLASSES[kind].__doc__).splitlines()[0]}"
        if rows:
            parts.append(
                "\n".join([title, "", "| code | received | rule | remedy | module |", "|---|---|---|---|---|", *rows])
            )
    retired = sorted(set(codes(before)) - {code for code, _ in coded})
    parts.append("\n".join([RETIRED, "", *(f"- `{code}`" for code in retired)] if retired else [RETIRED, "", "None."]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def codes(text: str) -> list[str]:
    """Returns the codes that a page lists, in its order."""
    return re.findall(rf"^(?:\| |- )`({CODE})`", text, re.MULTILINE)


def _row(code: str, site: Site) -> str:
    cells = [text.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*") for text in site.texts]
    return " | ".join([f"| `{code}`", *cells, f"`{site.path}` |"])


def next_code(kind: str, listed: list[str]) -> str:
    """Returns the code for a new error of a class, given all codes that are listed."""
    numbers = [int(code.rpartition("-")[2]) for code in listed if code.rpartition("-")[0] == prefix(kind)]
    return f"{prefix(kind)}-{max(numbers, default=0) + 1:03}"


if __name__ == "__main__":
    PAGE.write_text(page(sites(), PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""), encoding="utf-8")
