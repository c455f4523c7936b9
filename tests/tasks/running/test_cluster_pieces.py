"""What a worker of a cluster keeps open between pieces; a real cluster is in tests/reliability/test_dask.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load

from softgrpo.config import ExperimentConfig
from softgrpo.errors import StoreError
from softgrpo.stages.contract import unwatched
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, Piece, PieceMaker
from softgrpo.tasks.running import cluster_pieces
from softgrpo.tasks.running.cluster_pieces import Worker, make_piece
from softgrpo.tasks.running.order import Order
from softgrpo.tasks.running.piece_files import to_bytes
from softgrpo.tasks.tracking.store import ArtifactStore
from tests.support.isolated_stages import recaller

OPENER = f"{__name__}:open_shift"
opened_with: list[tuple[Opened, float]] = []


def open_shift(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens a sum with what is common."""
    opened_with.append((opened, float(common["by"])))

    def make(piece: Piece) -> Arrays:
        return {"rows": np.arange(piece.rows.start, piece.rows.stop) + piece.given["start"] + common["by"]}

    return make


class Store:
    """Brings the folders of finished stages."""

    def bring(self, reference: dict[str, str]) -> Path:
        return Path(reference["key"])


@pytest.fixture
def order() -> Order:
    opened_with.clear()
    split = {"stage": "split", "key": "a folder", "digest": "d", "run_id": "r"}
    store = cast(ArtifactStore, Store())
    upstream = cast(dict[str, Any], {"split": split})
    return Order(recaller("A"), ExperimentConfig(), store, "run", upstream, False, "", unwatched, remote=True)


def ask(order: Order, key: str, by: float) -> list[float]:
    """Asks for a piece of three windows."""
    common, given = to_bytes({"by": np.array(by)}), to_bytes({"start": np.array([10.0])})
    return load(make_piece(order, key, OPENER, common, 4, 7, given))["rows"].tolist()


def test_pieces_of_one_stage_share_what_is_open(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_pieces, "WORKER", Worker())
    assert ask(order, order.key(), 0.5) == [14.5, 15.5, 16.5]
    assert ask(order, order.key(), 0.5) == [14.5, 15.5, 16.5] and len(opened_with) == 1
    assert ask(order, order.key(), 1.5) == [15.5, 16.5, 17.5], "what is common has changed"
    assert [by for _, by in opened_with] == [0.5, 1.5]
    assert opened_with[0][0] is opened_with[1][0] and opened_with[0][0].inputs == {"split": Path("a folder")}
    other = replace(order, node=recaller("B"))
    ask(other, other.key(), 1.5)
    assert opened_with[2][0] is not opened_with[0][0]


def test_a_worker_with_other_code_or_data_makes_no_piece(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_pieces, "WORKER", Worker())
    with pytest.raises(
        StoreError, match=r"recall-A on .* has another identity than where the run was started.*STORE-038"
    ):
        ask(order, "recall-A-0123456789", 0.5)
    assert opened_with == []
