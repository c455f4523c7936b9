"""Pieces of a stage that others make, in files between its process and the one that started it.

A made piece is named by all that it follows from, and its file is there whole or not at all. So a stage that is run again, after a
crash or on a full disk, asks only for the pieces that are not there. Its files go with its working folder when it is committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from softgrpo.common.files import written_whole
from softgrpo.stages.pieces import Arrays, InThisProcess, Opener, Piece

if TYPE_CHECKING:
    from softgrpo.stages.opened import Opened

FOLDER = "pieces"


@dataclass(frozen=True)
class PieceFile:
    """A piece that is wanted.

    Attributes:
        first: Number of its first window.
        end: Number behind its last one.
        given: File of what it is given.
        made: File that it goes into.
    """

    first: int
    end: int
    given: Path
    made: Path


@dataclass(frozen=True)
class AskedPieces:
    """Pieces that a stage asks for.

    Attributes:
        opener: Module and name of the function that opens what they read, with a colon between.
        common: File of what is the same for all of them.
        pieces: The pieces.
    """

    opener: str
    common: Path
    pieces: tuple[PieceFile, ...]

    def message(self) -> list[Any]:
        """Returns it as JSON-able values."""
        return [
            self.opener,
            str(self.common),
            [[each.first, each.end, str(each.given), str(each.made)] for each in self.pieces],
        ]

    @classmethod
    def of_message(cls, opener: str, common: str, pieces: Sequence[Sequence[Any]]) -> AskedPieces:
        """Returns what `message` was made of."""
        files = (PieceFile(first, end, Path(given), Path(made)) for first, end, given, made in pieces)
        return cls(opener, Path(common), tuple(files))


MakeElsewhere = Callable[[AskedPieces, Callable[[int], None]], None]
"""Has pieces made, in any order, and calls back with the place of each whose file is there."""


class PiecesElsewhere:
    """Asks another process for pieces; see `softgrpo.stages.pieces.Pieces`.

    Args:
        folder: The stage's working folder.
        ask: Sends a message to that process.
        hear: Waits for the place of a piece that is made.
    """

    def __init__(self, folder: Path, ask: Callable[[list[Any]], None], hear: Callable[[], int]) -> None:
        self._folder = folder / FOLDER
        self._ask = ask
        self._hear = hear

    def make(self, opener: Opener, opened: Opened, common: Arrays, asked: Iterable[Piece]) -> Iterator[Arrays]:
        """Gives what is made of each piece; one alone is made here, since nobody could make another one meanwhile."""
        pieces = list(asked)
        if len(pieces) < 2:
            yield from InThisProcess().make(opener, opened, common, pieces)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{opener.__module__}:{opener.__name__}"
        data = to_bytes(common)
        for_all = self._keep(f"{_digest(data, name)}.common", data)
        files = [self._wanted(piece, f"{name} {for_all.name}") for piece in pieces]
        missing = [file for file in files if not _is_whole(file.made)]
        if missing:
            self._ask(AskedPieces(name, for_all, tuple(missing)).message())
        there = set(files) - set(missing)
        for file in files:
            while file not in there:
                there.add(missing[self._hear()])
            yield load(file.made.read_bytes())

    def _wanted(self, piece: Piece, said: str) -> PieceFile:
        given = to_bytes(piece.given)
        rows = piece.rows
        name = _digest(given, f"{said} {rows.start} {rows.stop}")
        made = self._folder / f"{name}.made"
        return PieceFile(rows.start, rows.stop, made if _is_whole(made) else self._keep(f"{name}.given", given), made)

    def _keep(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        if not path.is_file():
            with written_whole(path) as aside:
                aside.write_bytes(data)
        return path


def _is_whole(path: Path) -> bool:
    """Tells whether a piece is there; one that a fault of the disk has cut short is not."""
    try:
        with safe_open(path, framework="numpy"):
            return True
    except (FileNotFoundError, SafetensorError):
        return False


def _digest(data: bytes, said: str) -> str:
    return hashlib.sha256(said.encode("utf-8") + b"\0" + data).hexdigest()[:32]


def to_bytes(arrays: Arrays) -> bytes:
    """Returns arrays as safetensors, which takes the memory of an array as it lies: views of others are copied first."""
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})
