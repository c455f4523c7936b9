"""Packages with recallers, as pip would install them: a module, and the folder with its metadata."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "own-recaller.md"


def documented_plugin() -> str:
    """Returns the code of the plug-in that docs/own-recaller.md shows."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "class Popular" in block)
    return str(code)


def install(
    path: Path,
    code: str,
    *,
    package: str = "popular-recaller",
    version: str = "1.0",
    name: str = "Popular",
    entry: str = "popular_recaller:Popular",
    requires: tuple[str, ...] = (),
) -> None:
    """Puts a package into a folder that is on the path.

    Args:
        path: The folder.
        code: Of its one module.
        package: Its name.
        version: Its version.
        name: Of the entry point.
        entry: Module and class.
        requires: Its requirements.
    """
    (path / f"{entry.split(':')[0]}.py").write_text(code, encoding="utf-8")
    folder = path / f"{package.replace('-', '_')}.dist-info"
    folder.mkdir(exist_ok=True)
    lines = [f"Requires-Dist: {requirement}" for requirement in requires]
    metadata = ["Metadata-Version: 2.1", f"Name: {package}", f"Version: {version}", *lines, ""]
    (folder / "METADATA").write_text("\n".join(metadata), encoding="utf-8")
    points = f"[softgrpo.recallers]\n{name} = {entry}\n"
    (folder / "entry_points.txt").write_text(points, encoding="utf-8")
