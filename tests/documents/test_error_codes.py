"""Every error has a code of its own, and `docs/reference/errors.md` lists what each says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from softgrpo.errors import SoftGRPOError
from tests.documents import errors
from tests.documents.errors import CLASSES, NAMES, PAGE, codes, next_code, page, prefix, sites

SITES = sites()
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_error_has_a_code_of_its_class() -> None:
    for site in SITES:
        advice = f"{site.path}:{site.line}: give it code={next_code(site.kind, codes(TEXT))!r}"
        assert site.passed_on or re.fullmatch(rf"{prefix(site.kind)}-\d{{3}}", str(site.code)), advice


def test_no_code_is_given_twice() -> None:
    counts = Counter(site.code for site in SITES if site.code is not None)
    assert {code for code, count in counts.items() if count > 1} == set()


def test_the_page_is_what_the_code_says() -> None:
    assert page(SITES, TEXT) == TEXT, "write the page with: python -m tests.documents.errors"


def test_no_code_disappears() -> None:
    """Numbers of a class run from 1 on, without a gap: what is no longer in the code is among the retired."""
    for kind in CLASSES:
        numbers = sorted(int(code[-3:]) for code in codes(TEXT) if code.startswith(f"{prefix(kind)}-"))
        assert numbers == list(range(1, len(numbers) + 1)), kind


def test_every_place_is_found() -> None:
    """A call that the walk of the code misses would be without a row: they are counted in the text too."""
    pattern = rf"\b({'|'.join(NAMES)})\("
    files = {errors.ROOT / site.path for site in SITES}
    outside = [path for folder in errors.FOLDERS for path in (errors.ROOT / folder).rglob("*.py") if path not in files]
    for path in [*files, *outside]:
        source = re.sub(r"^class .*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        name = path.relative_to(errors.ROOT).as_posix()
        assert len(re.findall(pattern, source)) == sum(site.path == name for site in SITES), name


def test_prefixes_tell_the_classes_apart() -> None:
    assert len({prefix(kind) for kind in CLASSES}) == len(CLASSES) == len(SoftGRPOError.__subclasses__())
    assert (prefix("TimeLimitError"), prefix("DataError")) == ("TIME", "DATA")


SOURCE = """
from softgrpo.errors import DataError
RULE = "a rule"
def f(path, rule):
    said = f"{path}, " + "line " f"{path.line}"
    if path:
        said = "another"
        raise DataError(f"{path!r} | {len(path)}", RULE, "a" if path else "b", code="DATA-001")
    elif rule:
        said = "a third"
    raise DataError(said, rule, remedy="Mend it")
def g(error):
    raise DataError("x", error.rule, "y", code=error.code) from error
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one module with three errors."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/a.py").write_text(SOURCE)
    monkeypatch.setattr(errors, "ROOT", tmp_path)
    return tmp_path


def test_texts_follow_what_names_hold(small: Path) -> None:
    one, two, three = sites()
    assert (one.kind, one.path, one.line, one.code) == ("DataError", "flows/a.py", 8, "DATA-001")
    assert one.texts == ("{path} | {...}", "a rule", "a / b")
    assert two.texts == ("{path}, line {line} / a third", "{rule}", "Mend it")  # the first branch has left the function
    assert (two.code, two.passed_on) == (None, False)
    assert (three.code, three.passed_on) == (None, True)


def test_a_code_that_is_gone_is_retired_and_never_given_again(small: Path) -> None:
    before = "| `DATA-003` | was | a | row |\n\n## Retired\n\n- `DATA-002`\n"
    text = page(sites(), before)
    assert codes(text) == ["DATA-001", "DATA-002", "DATA-003"] and text.endswith(
        "## Retired\n\n- `DATA-002`\n- `DATA-003`\n"
    )
    assert page(sites(), text) == text
    assert "| `DATA-001` | {path} \\| {...} | a rule | a / b | `flows/a.py` |" in text
    assert next_code("DataError", codes(text)) == "DATA-004" and next_code("TimeLimitError", codes(text)) == "TIME-001"
