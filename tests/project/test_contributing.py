"""What contributors meet: hooks with the pinned tools, forms and the citation by their published schemas, one page."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import softgrpo

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
SCHEMAS = {
    "CITATION.cff": "citation-file-format",
    ".readthedocs.yaml": "readthedocs",
    ".github/ISSUE_TEMPLATE/bug.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/number.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/idea.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
    ".github/workflows/supply-chain.yml": "github-workflows",
}


def run(tool: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs one of the installed tools in the repository's root."""
    return subprocess.run([str(TOOLS / tool), *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("file", "schema"), SCHEMAS.items())
def test_files_keep_their_published_schemas(file: str, schema: str) -> None:
    done = run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_form_is_checked() -> None:
    forms = {path.relative_to(ROOT).as_posix() for path in (ROOT / ".github").rglob("*.yml")}
    assert forms == {file for file in SCHEMAS if file.startswith(".github/")}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (softgrpo.__version__, project["license"])
    assert citation["abstract"] == project["description"]


def test_the_pages_are_published_as_they_are_built_here() -> None:
    published = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text(encoding="utf-8"))
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert published["build"]["tools"]["python"] == pyproject["tool"]["mypy"]["python_version"]
    command, without_dependencies = published["build"]["jobs"]["install"]
    extras = re.fullmatch(r"python -m pip install -c constraints\.txt -e '\.\[([a-z,]+)\]'", command)
    assert extras is not None
    wanted = [name for extra in extras[1].split(",") for name in pyproject["project"]["optional-dependencies"][extra]]
    assert {"sphinx", "myst-parser", "furo", "mlflow", "texttable"} <= {name.partition(">")[0] for name in wanted}
    assert without_dependencies == "python -m pip install -c constraints.txt --no-deps recbole"
    assert published["sphinx"] == {"configuration": "docs/conf.py", "fail_on_warning": True}
    assert "--fail-on-warning" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_hooks_are_the_pinned_tools_and_the_checks_of_make() -> None:
    assert run("pre-commit", "validate-config").returncode == 0
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"  # nothing is fetched, no other version runs
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in hooks.values())
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    checked = re.findall(r"^\t@\$\(BIN\)/(ruff check|ruff format|mypy)", makefile, re.MULTILINE)
    assert sorted(checked) == ["mypy", "ruff check", "ruff format"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks.values()]
    assert all(any(entry.startswith(tool) for entry in entries) for tool in checked)


def test_every_decision_is_in_the_index() -> None:
    notes = {path.name for path in (ROOT / "docs/decisions").glob("*.md")} - {"index.md"}
    index = (ROOT / "docs/decisions/index.md").read_text(encoding="utf-8")
    assert {name for name in notes if f"({name})" not in index} == set()


def test_contributing_is_one_page() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 80
