"""The pages: the reference is made from the code, and all of it builds without a warning."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag, urlparse

import pytest

import softgrpo
from softgrpo.presets import settings

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs"


def load() -> ModuleType:
    """Returns the module that makes the reference; it lies beside the pages."""
    spec = importlib.util.spec_from_file_location("generate", PAGES / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = load()


def test_every_setting_has_its_row_with_its_description() -> None:
    page = GENERATE.settings_page()
    rows = dict(re.findall(r"^\| `([\w.]+)` \|(.*)\|$", page, re.MULTILINE))
    assert rows.keys() == settings().keys()
    for path, row in rows.items():
        assert " ".join(settings()[path].description.split()).replace("|", "\\|") in row
        assert all(f"`{choice}`" in row for choice in settings()[path].choices)
        cells = re.split(r"(?<!\\)\|", row)
        assert len(cells) == 3 and cells[1].strip()


def test_every_package_and_module_has_its_place() -> None:
    initialised = {
        path.parent for room in ("softgrpo", "tasks", "flows") for path in (ROOT / room).rglob("__init__.py")
    }
    dotted = {path.relative_to(ROOT).as_posix().replace("/", ".") for path in initialised}
    packages = {name if name.split(".")[0] == "softgrpo" else f"softgrpo.{name}" for name in dotted}
    assert set(GENERATE.packages()) == packages
    listed = re.findall(
        r"^generated/([\w.]+)$", (PAGES / "reference/index.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(listed) == packages | {"public", "settings"}
    page = GENERATE.package_page("softgrpo.data")
    assert page.count(".. automodule:: softgrpo.data.windows\n") == 1


def test_every_public_name_is_described() -> None:
    page = GENERATE.face_page()
    for name in softgrpo.__all__:
        thing = getattr(softgrpo, name)
        assert len(str(thing.__doc__)) >= 40, name
        assert (
            f"| [`{name}`](#{name.lower()}) | {str(thing.__doc__).strip().partition(chr(10))[0].rstrip('.')} |" in page
        )
        assert f":: {softgrpo.HOMES[name]}.{name}\n" in page


def test_pages_are_written_once(tmp_path: Path) -> None:
    GENERATE.write_pages(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    GENERATE.write_pages(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_docstrings_keep_their_meaning() -> None:
    lines = [
        "Sums |S| of w * x, see `a|b*`; names_ too.",
        "",
        "    a -> b_",
        "      c",
        "",
        "Args:",
        "    x: one",
        "",
        "    y: two",
    ]
    assert GENERATE.as_restructured_text(lines) == [
        "Sums \\|S\\| of w \\* x, see `a|b*`; names\\_ too.",
        "",
        ".. code-block:: text",
        "",
        "    a -> b_",
        "      c",
        "",
        "Args:",
        "    x: one",
        "",
        "    y: two",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_pages_build_without_a_warning_and_lead_to_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    for source in PAGES.rglob("*.md"):
        assert source.relative_to(PAGES).with_suffix(".html").as_posix() in pages
    for name, text in pages.items():
        for target in re.findall(r'<a [^>]*href="([^"]+)"', text):
            address, anchor = urldefrag(target)
            if urlparse(address).scheme or not address:
                continue
            found = (tmp_path / name).parent / unquote(address)
            assert found.exists(), f"{name} leads to {target}"
            if anchor and found.suffix == ".html":
                assert f'id="{unquote(anchor)}"' in found.read_text(encoding="utf-8"), f"{name} leads to {target}"
    assert "SoftGRPOTrainer" in pages["reference/generated/softgrpo.algorithm.html"]
    assert "load_model" in pages["reference/generated/softgrpo.serving.html"]
    public = pages["reference/generated/public.html"]
    assert all(f'id="{name.lower()}"' in public for name in softgrpo.__all__)
