"""How Sphinx builds these pages: `make docs`, or `python -m sphinx docs build/docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # `tasks` and `flows`, and the module beside this one

import generate  # noqa: E402

import softgrpo.tasks.stage  # noqa: E402 - before autodoc reads pydantic models: fastapi cannot be imported after that
import softgrpo.tasks.tracking.bundles  # noqa: E402, F401 - the same, of mlflow.pyfunc
from softgrpo import __version__  # noqa: E402

project, author, copyright, release = "softgrpo", "The softgrpo authors", "2026, the softgrpo authors", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "softgrpo"
html_copy_source = False
myst_heading_anchors = 3
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}  # a name is documented where it is defined
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def _write_reference(app: Sphinx) -> None:
    generate.write_pages(HERE / "reference" / "generated")


def _readable(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    lines[:] = generate.as_restructured_text(lines)


def setup(app: Sphinx) -> None:
    """Connects the reference, which is made from the code, to the build."""
    app.connect("builder-inited", _write_reference)
    app.connect("autodoc-process-docstring", _readable, priority=400)  # napoleon comes at 500
