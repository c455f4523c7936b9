"""A stage asks for pieces, others make them in files; what is there already is not asked for again."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from safetensors.numpy import load

from softgrpo.config import ExperimentConfig
from softgrpo.stages.contract import StageContext
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Piece
from softgrpo.tasks.running.isolation import Isolation
from softgrpo.tasks.running.piece_files import FOLDER, AskedPieces, to_bytes
from tests.support.isolated_stages import open_rows, open_sums, recaller
from tests.tasks.running.test_isolation import Heard

EXPECTED = [
    {"sums": [101.0 + 6 * place, 104.0 + 6 * place], "reverse": [104.0 + 6 * place, 101.0 + 6 * place]}
    for place in range(4)
]


@dataclass
class Maker:
    """Makes pieces, the last one first.

    Attributes:
        most: How many it makes before its disk is full.
        rows: First window of each piece that it was asked for.
    """

    most: int = 100
    rows: list[list[int]] = field(default_factory=list)

    def __call__(self, asked: AskedPieces, done: Callable[[int], None]) -> None:
        module, name = asked.opener.split(":")
        assert module == "tests.support.isolated_stages"
        assert len(asked.pieces) > 1 or name == "open_sums", "a piece alone is made where it is wanted"
        if name == "open_sums":
            self.rows.append([piece.first for piece in asked.pieces])
        openers = {"open_sums": open_sums, "open_rows": open_rows}
        job = openers[name](cast(Opened, None), load(asked.common.read_bytes()))
        for place, piece in list(enumerate(asked.pieces))[::-1]:
            if self.most == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.most -= 1
            given = load(piece.given.read_bytes())
            piece.made.write_bytes(to_bytes(job(Piece(slice(piece.first, piece.end), given))))
            piece.given.unlink()
            done(place)


def go(root: Path, maker: Maker | None) -> list[dict[str, list[float]]]:
    """Runs the stage that asks for pieces; returns what came of them."""
    out, work = root / ".staging" / "Pieces", root / ".work"
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    node = Isolation().node(recaller("Pieces"), maker)
    node.stage.run(StageContext(ExperimentConfig(), "Pieces", {"split": root}, out, work, Heard()))
    found: list[dict[str, list[float]]] = json.loads((out / "sums").read_text())
    return found


def test_pieces_that_others_make_are_those_of_the_stage_itself(tmp_path: Path) -> None:
    maker = Maker()
    assert go(tmp_path / "elsewhere", maker) == EXPECTED, "in their order, and views as they look"
    assert maker.rows == [[0, 2, 4, 6]]
    assert go(tmp_path / "here", None) == EXPECTED
    assert not (tmp_path / "here" / ".work" / FOLDER).exists()


def test_a_stage_that_is_run_again_asks_for_what_is_missing(tmp_path: Path) -> None:
    full, later = Maker(most=3), Maker()
    with pytest.raises(OSError, match="No space left"):
        go(tmp_path, full)
    assert go(tmp_path, later) == EXPECTED
    assert (full.rows, later.rows) == ([[0, 2, 4, 6]], [[0]])
    again = Maker()
    assert go(tmp_path, again) == EXPECTED and again.rows == []
    made = sorted((tmp_path / ".work" / FOLDER).glob("*.made"))
    assert len(made) == 8
    for path in made:
        path.write_bytes(path.read_bytes()[:-1])
    assert go(tmp_path, again) == EXPECTED and again.rows == [[0, 2, 4, 6]]


def test_a_piece_that_is_given_something_else_is_another_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path, Maker())
    kept = {path.name for path in (tmp_path / ".work" / FOLDER).glob("*.made")}
    monkeypatch.setenv("PIECES_START_AT", "5")
    other = Maker()
    found = go(tmp_path, other)
    assert other.rows == [[0, 2, 4, 6]] and found[0]["sums"] == [106.0, 109.0]
    assert kept < {path.name for path in (tmp_path / ".work" / FOLDER).glob("*.made")}
