"""What changes a stage's key, and what must not."""

from __future__ import annotations

import ast
import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import softgrpo
from softgrpo.common.digests import digest_folder, digest_json
from softgrpo.config import ExperimentConfig
from softgrpo.pipeline import keys
from softgrpo.pipeline.keys import _module_path, _read, code_fingerprint, reached_modules, stage_key
from softgrpo.stages.contract import Node, Stage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert digest_json(value) == digest_json(dict(reversed(value.items())))


def test_the_order_of_lists_and_the_kind_of_value_matter() -> None:
    assert len({digest_json(value) for value in ([1, 2], [2, 1], ["1", 2], [1, 2, None], {"a": 1}, {"a": "1"})}) == 6


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_json({"a": float("nan")})


def test_a_folder_digest_knows_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = digest_folder(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = digest_folder(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, digest_folder(tmp_path)}) == 3


SOURCES = {
    "__init__.py": "",
    "top.py": (
        '"""Top."""\nfrom minipack.helper import double\nimport minipack.other\n\n'
        'def run(x):\n    """Runs."""\n    return double(x)\n'
    ),
    "helper.py": "from minipack import deep\nfrom minipack.settings.one import X\n\ndef double(x):\n    return 2 * x + deep.ZERO\n",
    "deep.py": 'ZERO = 0\n"""Nothing."""\n',
    "other.py": "ONE = 1\n",
    "settings/__init__.py": "",
    "settings/one.py": "X = 1\n",
    "unrelated.py": "TWO = 2\n",
}


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package whose module `top` reaches helper, deep and other; `settings` is declared as no code."""
    folder = tmp_path / "minipack"
    folder.mkdir()
    (folder / "settings").mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(keys, "PACKAGE", "minipack")
    monkeypatch.setattr(keys, "NOT_CODE", frozenset({"minipack.settings"}))
    forget()
    yield folder
    forget()
    for name in [name for name in sys.modules if name.split(".")[0] == "minipack"]:
        del sys.modules[name]


def forget() -> None:
    _module_path.cache_clear()
    _read.cache_clear()
    reached_modules.cache_clear()
    code_fingerprint.cache_clear()


def fingerprint() -> str:
    forget()
    return code_fingerprint("minipack.top")


def test_modules_are_reached_through_imports(mini: Path) -> None:
    reached = set(reached_modules("minipack.top"))
    assert {"minipack.top", "minipack.helper", "minipack.deep", "minipack.other"} <= reached
    assert not {"minipack.unrelated", "minipack.settings", "minipack.settings.one"} & reached


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("top.py", '"""Top."""', '"""Another text."""'),
        ("top.py", '"""Runs."""', '"""Runs, they say."""'),
        ("top.py", "return double(x)", "return  double( x )  # why"),
        ("unrelated.py", "2", "3"),
        ("deep.py", "Nothing.", "The number below one."),
        ("settings/one.py", "1", "2"),
    ],
)
def test_words_layout_and_other_modules_do_not_change_the_fingerprint(
    mini: Path, name: str, old: str, new: str
) -> None:
    before = fingerprint()
    path = mini / name
    path.write_text(path.read_text().replace(old, new))
    (mini / "README.md").write_text("new")
    assert fingerprint() == before


@pytest.mark.parametrize(
    ("name", "old", "new"), [("top.py", "(x)", "(y)"), ("helper.py", "2", "3"), ("deep.py", "0", "1")]
)
def test_an_edit_to_reached_code_changes_the_fingerprint(mini: Path, name: str, old: str, new: str) -> None:
    before = fingerprint()
    path = mini / name
    path.write_text(path.read_text().replace(old, new))
    assert fingerprint() != before


def node(**parameters: object) -> Node:
    stage = Stage(
        "sft", lambda _: {}, lambda _config, _variant: dict(parameters), "softgrpo.common.columns", ("numpy",)
    )
    return Node("sft", stage, "", ("split", "data"))


def test_a_key_depends_on_parameters_and_upstream_content_only() -> None:
    config, upstream = ExperimentConfig(), {"split": "d1", "data": "d2"}
    key = stage_key(node(a=1, b=2), config, upstream)
    assert key.startswith("sft-") and len(key) == len("sft-") + 20
    assert stage_key(node(b=2, a=1), config, dict(reversed(upstream.items()))) == key
    assert stage_key(node(a=1, b=3), config, upstream) != key
    assert stage_key(node(a=1, b=2), config, {"split": "d1", "data": "d3"}) != key
    assert stage_key(node(a=1, b=2), config, {"split": "d2", "data": "d1"}) != key


def test_a_key_depends_on_library_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    config, upstream = ExperimentConfig(), {"split": "d1", "data": "d2"}
    key = stage_key(node(), config, upstream)
    monkeypatch.setattr(keys, "library_versions", lambda names: {"numpy": "another"})
    assert stage_key(node(), config, upstream) != key


class Busy:
    """Garbage whose end takes some Python, in which other threads get their turn."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(50))


def test_code_is_read_by_threads_at_once() -> None:
    """As on a Dask worker; without the lock in `_parse` this fails with a SystemError."""
    codes = [path.read_text(encoding="utf-8") for path in sorted(Path(softgrpo.__file__).parent.rglob("*.py"))[:40]]
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for code in codes:
                Busy()
                assert keys._parse(code).body
        except BaseException as error:
            failures.append(error)

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert not failures


def test_code_is_read_again_where_somebody_elses_reading_met_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, tries = ast.parse, iter([SystemError("depth mismatch"), SystemError("depth mismatch"), None])

    def meets(code: str) -> ast.Module:
        if error := next(tries):
            raise error
        return parse(code)

    monkeypatch.setattr(ast, "parse", meets)
    assert ast.dump(keys._parse("x = 1")) == ast.dump(parse("x = 1"))
    assert next(tries, "none left") == "none left"
