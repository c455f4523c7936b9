"""What one stage needs to be found or run, wherever that is done."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softgrpo.common.files import make_private
from softgrpo.config import ExperimentConfig
from softgrpo.errors import StoreError
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.store import write_atomic
from softgrpo.stages.contract import Node, Watch
from softgrpo.tasks.running.isolation import Isolation
from softgrpo.tasks.running.piece_files import AskedPieces
from softgrpo.tasks.tracking.store import ArtifactStore, Reference


@dataclass(frozen=True)
class Order:
    """All that one stage needs to be found or run, besides its key: plain values, which can be sent to another process.

    Attributes:
        node: The stage.
        config: The resolved configuration.
        store: Where stages are found and published.
        parent_run: MLflow run of the pipeline.
        upstream: What the stage reads, by node name.
        forced: Repeat the stage even if it is stored.
        token: Names this order of a forced stage, and no other; empty for other stages.
        watch: Put between the stage and its reporter.
        isolation: Runs the stage in a process of its own; None runs it in this one.
        elsewhere: Has the pieces of a stage made that runs in a process of its own; None leaves them to that process.
        remote: The task may run on another machine, which fetches what the stage reads.
    """

    node: Node
    config: ExperimentConfig
    store: ArtifactStore
    parent_run: str
    upstream: dict[str, Reference]
    forced: bool
    token: str
    watch: Watch
    isolation: Isolation | None = None
    elsewhere: Callable[[Order, str, AskedPieces, Callable[[int], None]], None] | None = None
    remote: bool = False

    def key(self) -> str:
        """Returns the stage's identity, by the code, the libraries and the data that are here."""
        digests = {name: reference["digest"] for name, reference in self.upstream.items()}
        return stage_key(self.node, self.config, digests)

    def is_made(self, key: str) -> bool:
        """Tells whether a forced stage has been repeated for this order on this machine, so that only the rest is left to do."""
        note = self._note(key)
        return self.forced and note.is_file() and note.read_text(encoding="utf-8") == self.token

    def note_made(self, key: str) -> None:
        """Notes, beside the local store, that a forced stage has been repeated for this order."""
        note = self._note(key)
        make_private(note.parent)
        write_atomic(note, self.token)

    def _note(self, key: str) -> Path:
        return self.store.local.root / ".forced" / key

    def inputs(self) -> dict[str, Path]:
        """Returns the folder of each stage that this one reads."""
        if self.remote:
            return {name: self.store.bring(reference) for name, reference in self.upstream.items()}
        return {name: self.store.local.payload(reference["key"]) for name, reference in self.upstream.items()}


def check_identity(order: Order, key: str) -> None:
    """Checks that a stage is the same on this machine as where the run was started.

    Raises:
        StoreError: It is not.
    """
    if order.key() != key:
        raise StoreError(
            f"{order.node.name} on {socket.gethostname()} has another identity than where the run was started",
            "Code, libraries and data must be the same on all machines of a run",
            "Bring the machines to the same state and run the same command again",
            code="STORE-038",
        )
