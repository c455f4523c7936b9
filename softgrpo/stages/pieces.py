"""Work on windows, a piece at a time: in this process, or wherever whoever runs the stage has it done.

A piece follows from the stages that were finished before, from settings, and from what it is given; so it can be made anywhere, and
any number of times. Pieces are cut by the stage, in the same way wherever they are made, so that no stored number depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from softgrpo.stages.opened import Opened

Arrays = Mapping[str, NDArray[Any]]
"""Named arrays of numbers or of bytes, which can be sent and stored without pickle."""
PieceMaker = Callable[["Piece"], Arrays]
"""Makes one piece."""
Opener = Callable[["Opened", Arrays], PieceMaker]
"""Opens what all pieces read, once: finished stages, and what the stage knows besides. It is a function of a module."""


@dataclass(frozen=True)
class Piece:
    """Some windows to work on.

    Attributes:
        rows: Their numbers: those among all windows, or among those that the stage asks about.
        given: What the stage knows of them.
    """

    rows: slice
    given: Arrays = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


class Pieces(Protocol):
    """Has pieces made."""

    def make(self, opener: Opener, opened: Opened, common: Arrays, asked: Iterable[Piece]) -> Iterator[Arrays]:
        """Gives what is made of each piece, in their order.

        Args:
            opener: Opens what all pieces read.
            opened: What the stage itself has open.
            common: What the stage knows for all pieces.
            asked: The pieces.
        """


class InThisProcess:
    """Makes one piece after the other, here."""

    def make(self, opener: Opener, opened: Opened, common: Arrays, asked: Iterable[Piece]) -> Iterator[Arrays]:
        """Gives what is made of each piece; see `Pieces`."""
        return map(opener(opened, common), asked)


def cut(first: int, end: int, size: int) -> Iterator[Piece]:
    """Gives pieces that cover the windows `first` to `end` (exclusive)."""
    for begin in range(first, end, size):
        yield Piece(slice(begin, min(begin + size, end)))


def text_array(text: str) -> NDArray[np.uint8]:
    """Returns a text as an array of bytes."""
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def array_text(array: NDArray[np.uint8]) -> str:
    """Returns the text of `text_array`."""
    return array.tobytes().decode("utf-8")


def packed(folder: Path) -> Arrays:
    """Returns the files of a folder as arrays of bytes, by their paths in it behind a slash; none where there is no such folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"/{path.relative_to(folder).as_posix()}": np.fromfile(path, dtype=np.uint8) for path in files}


def unpack(arrays: Arrays, folder: Path) -> None:
    """Writes the files of `packed` into a new folder; nothing where there are none."""
    for name, data in arrays.items():
        if name.startswith("/"):
            path = folder / name[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.tobytes())
