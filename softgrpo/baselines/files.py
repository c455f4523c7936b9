"""How fitted baselines are written and read: a card as JSON, arrays as safetensors, trees by skops. Nothing is pickled.

Nothing that is read runs code of its own: of skops, the one type of scikit-learn that trees need is trusted by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from skops.io import dumps, load
from skops.io.exceptions import UntrustedTypesFoundException
from torch import Tensor

from softgrpo.common.digests import digest_file
from softgrpo.errors import PolicyError

TRUSTED = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
SCHEMA = "schema.json"
"""Of an archive of skops: what the objects are, with the names of the files that hold their arrays."""
FILES = "files"
"""Of a card: the digest of each file beside it, by name. Cards of earlier versions lack it."""
_UNREADABLE = (
    *(AttributeError, BadZipFile, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, UntrustedTypesFoundException),
)
"""What the readers raise where a file is not what its name says."""


def write_card(folder: Path, name: str, card: Mapping[str, Any]) -> None:
    """Writes a card, with the digests of the files that lie beside it already; numbers keep their last digit."""
    files = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
    (folder / name).write_text(json.dumps({**card, FILES: files}, indent=2), encoding="utf-8")


def read_card(folder: Path, name: str) -> dict[str, Any]:
    """Reads what `write_card` wrote.

    Raises:
        PolicyError: There is no card, it is no JSON object, or a file beside it is missing or is another.
    """
    path = folder / name
    if not path.is_file():
        raise PolicyError(
            f"'{folder}' holds no {name}",
            "a stored gate or ranker has one",
            "Name a folder that its method save wrote",
            code="POLICY-037",
        )
    with readable(folder):
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise TypeError(f"{name} is no JSON object")
        for other, digest in card.get(FILES, {}).items():
            if digest_file(folder / other) != digest:
                raise ValueError(f"{other} is not the file that was stored")
    return card


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turns what goes wrong while a folder is read into one error that names the folder.

    Raises:
        PolicyError: A file is missing, damaged, or holds something else.
    """
    try:
        yield
    except _UNREADABLE as error:
        raise PolicyError(
            f"'{folder}': {type(error).__name__}: {error}",
            "a stored gate or ranker is read only if its files are those that were written, and none brings code of its own",
            "Fit it again: repeat the stage that wrote it",
            code="POLICY-040",
        ) from error


def write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Writes tensors by name, bit for bit."""
    save_file({name: array.contiguous() for name, array in arrays.items()}, path)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Reads what `write_arrays` wrote; call within `readable`."""
    arrays: dict[str, Tensor] = load_file(path)
    return arrays


def write_trees(path: Path, trees: object) -> None:
    """Writes fitted trees of scikit-learn, or a list of them; equal trees give equal bytes, as every stage's files do."""
    path.write_bytes(reproducible(dumps(trees)))


def reproducible(archive: bytes) -> bytes:
    """Returns an archive of skops without what differs between equal objects: memory addresses, random file names, and times."""
    with ZipFile(BytesIO(archive)) as stored:
        schema = json.loads(stored.read(SCHEMA))
        numbers: dict[Any, int] = {}
        files: dict[str, str] = {}
        for node in _nodes(schema):
            if "__id__" in node:
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
            if isinstance(name := node.get("file"), str):
                node["file"] = files.setdefault(name, f"{len(files)}{Path(name).suffix}")
        parts = {new: stored.read(old) for old, new in files.items()} | {SCHEMA: json.dumps(schema, indent=1).encode()}
    made = BytesIO()
    with ZipFile(made, "w") as written:
        for name, content in parts.items():
            written.writestr(ZipInfo(name), content)
    return made.getvalue()


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Gives all objects inside JSON, each before those inside it, in their order."""
    if isinstance(schema, dict):
        yield schema
    if isinstance(schema, dict | list):
        for inner in schema.values() if isinstance(schema, dict) else schema:
            yield from _nodes(inner)


def read_trees(path: Path) -> Any:
    """Reads what `write_trees` wrote; call within `readable`."""
    return load(path, trusted=TRUSTED)
