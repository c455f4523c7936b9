"""Pieces of stages on a Dask cluster: all its workers make them, not only the one that runs the stage.

The worker that runs a stage gives up its place among those that work for as long as it waits, so pieces are made even where every
worker runs a stage. A worker that dies costs the pieces that it was making.
"""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from safetensors.numpy import load

from softgrpo.common.files import written_whole
from softgrpo.common.redaction import hide_passwords
from softgrpo.stages.pieces import Opener, Piece, PieceMaker
from softgrpo.tasks.running.cluster import losses_are_readable
from softgrpo.tasks.running.order import Order, check_identity
from softgrpo.tasks.running.piece_files import AskedPieces, to_bytes

if TYPE_CHECKING:
    from softgrpo.stages.opened import Opened

AHEAD = 2
"""Pieces that are sent for each place of the cluster before one comes back."""


def make_on_cluster(order: Order, key: str, asked: AskedPieces, done: Callable[[int], None]) -> None:
    """Has pieces made by the workers of the cluster that this process is a worker of.

    Args:
        order: Of the stage.
        key: Its identity.
        asked: The pieces.
        done: Called with the place of each piece whose file is there.

    Raises:
        ProcessError: A piece takes one worker after another down.
        StoreError: The scheduler is gone.
        SoftGRPOError: What a piece raised.
    """
    from distributed import Future, wait, worker_client

    sent, common = replace(order, isolation=None, elsewhere=None), asked.common.read_bytes()
    left, at_work = deque(enumerate(asked.pieces)), dict[Future[bytes], int]()
    with worker_client() as client:
        room = AHEAD * sum(client.nthreads().values())
        while left or at_work:
            while left and len(at_work) < room:
                place, piece = left.popleft()
                words = (sent, key, asked.opener, common, piece.first, piece.end, piece.given.read_bytes())
                at_work[client.submit(make_piece, *words, pure=False)] = place
            for future in wait(list(at_work), return_when="FIRST_COMPLETED").done:  # type: ignore[no-untyped-call]
                place = at_work.pop(future)
                piece = asked.pieces[place]
                with losses_are_readable(f"{order.node.name}, windows {piece.first} to {piece.end - 1}"):
                    made = future.result()
                with written_whole(piece.made) as aside:
                    aside.write_bytes(made)
                piece.given.unlink(missing_ok=True)
                done(place)


@dataclass
class Desk:
    """What a worker keeps open between pieces of one stage.

    Attributes:
        key: Identity of the stage.
        opened: The stages that it reads.
        job: Of the opener that was asked last, and what is common to its pieces.
        said: Names both.
    """

    key: str
    opened: Opened
    job: PieceMaker | None = None
    said: str = ""


class Worker:
    """Makes pieces in this process; pieces of one stage that come one after the other share what is open."""

    def __init__(self) -> None:
        self._desk: Desk | None = None
        self._lock = threading.Lock()

    def job(self, order: Order, key: str, opener: str, common: bytes) -> PieceMaker:
        """Returns what makes pieces of a stage.

        Raises:
            StoreError: Code, libraries or data are others than where the run was started.
        """
        with self._lock:  # a worker may have several threads
            if self._desk is None or self._desk.key != key:
                check_identity(order, key)
                self._desk = None  # first let go of what the stage before had open
                from softgrpo.stages.opened import Opened  # with torch, which the process of a flow does without

                self._desk = Desk(key, Opened(order.config, order.inputs()))
            desk, said = self._desk, opener + hashlib.sha256(common).hexdigest()
            if desk.job is None or desk.said != said:
                desk.job, desk.said = _opener(opener)(desk.opened, load(common)), said
            return desk.job


WORKER = Worker()


def _opener(name: str) -> Opener:
    module, _, function = name.partition(":")
    found: Opener = getattr(importlib.import_module(module), function)
    return found


def make_piece(order: Order, key: str, opener: str, common: bytes, first: int, end: int, given: bytes) -> bytes:
    """Makes one piece, on a worker.

    Args:
        order: Of the stage.
        key: Its identity.
        opener: See `AskedPieces`.
        common: What is the same for all pieces, as safetensors.
        first: Number of the first window.
        end: Number behind the last one.
        given: What the piece is given, as safetensors.

    Returns:
        What was made, as safetensors.
    """
    hide_passwords()
    made = WORKER.job(order, key, opener, common)(Piece(slice(first, end), load(given)))
    return to_bytes(made)
