"""README.zh-CN.md says what README.md says: the same headings in order, the same blocks, links, pictures and tables."""

from __future__ import annotations

import re
from pathlib import Path

from tests.documents.test_docs import SHELLS, blocks, prose, shell_lines

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"


def headings(path: Path) -> list[tuple[int, str]]:
    """Returns level and text of each heading, in order."""
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.+)$", prose(path), re.MULTILINE)]


def links(path: Path) -> list[str]:
    """Returns where a document's links and pictures lead, sorted; the two READMEs' links to each other left out."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    return sorted(target for target in found if not target.startswith("README"))


def test_headings_are_the_same_in_number_and_level() -> None:
    assert [level for level, _ in headings(CHINESE)] == [level for level, _ in headings(ENGLISH)]
    for (_, chinese), (_, english) in zip(headings(CHINESE)[1:], headings(ENGLISH)[1:], strict=True):
        assert re.search(r"[\u4e00-\u9fff]", chinese), f"'{english}' is not translated"


def test_commands_are_the_same() -> None:
    def commands(path: Path) -> list[list[list[str]]]:
        return [shell_lines(text) for language, text in blocks(path) if language in SHELLS]

    assert commands(CHINESE) == commands(ENGLISH)


def test_other_blocks_are_the_same_but_for_their_comments() -> None:
    def code(path: Path) -> list[tuple[str, str]]:
        return [(kind, re.sub(r"#.*", "", text)) for kind, text in blocks(path) if kind not in SHELLS]

    assert code(CHINESE) == code(ENGLISH)


def test_links_and_pictures_are_the_same() -> None:
    assert links(CHINESE) == links(ENGLISH)


def test_tables_have_the_same_rows() -> None:
    def shape(path: Path) -> list[int]:
        return [line.count("|") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]

    assert shape(CHINESE) == shape(ENGLISH)


def test_each_leads_to_the_other() -> None:
    assert "(README.zh-CN.md)" in ENGLISH.read_text(encoding="utf-8")
    assert "(README.md)" in CHINESE.read_text(encoding="utf-8")
