"""Prefetching: the files of stages that a plan will reuse are verified, and downloaded, before the plan reaches them.

See `softgrpo.pipeline.plan.look_ahead` for files that are on this machine. What is reused is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.keys import stage_key
from softgrpo.pipeline.plan import look_ahead
from softgrpo.stages.contract import Node
from softgrpo.tasks.tracking.store import ArtifactStore

WORKERS = 4


@dataclass(frozen=True)
class Prefetched:
    """Stages whose files are being fetched.

    Attributes:
        futures: By key; each ends when the files are here.
    """

    futures: dict[str, Future[None]] = field(default_factory=dict)

    def wait(self, key: str) -> None:
        """Waits for a key's files if they are being fetched.

        Raises:
            StoreError: No space is left.
        """
        if key in self.futures:
            self.futures.pop(key).result()


def stored_digest(store: ArtifactStore, key: str) -> str | None:
    """Returns the digest of a stage that is stored here or in MLflow, as its mark tells it; None where it is not stored."""
    if digest := store.local.digest(key):
        return digest
    runs = store.committed(key)
    return str(runs[0].data.tags["digest"]) if runs else None


@contextmanager
def prefetching(
    store: ArtifactStore, nodes: Sequence[Node], config: ExperimentConfig, force: tuple[str, ...]
) -> Iterator[Prefetched]:
    """Prefetches as far as the plan seems to be stored, judging by the marks on this machine and in MLflow.

    Args:
        store: The open store.
        nodes: The plan.
        config: The resolved configuration.
        force: Stages that will be repeated; what comes after one is not known before.
    """
    prefetched, digests = Prefetched(), dict[str, str]()
    look_ahead(nodes, config, force, store.local)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="prefetch") as pool:
        try:
            for node in nodes:
                if node.stage.name in force:
                    break
                key = stage_key(node, config, digests)
                if mark := store.local.marked(key):
                    digests[node.name] = mark.digest
                elif runs := store.committed(key):
                    prefetched.futures[key] = pool.submit(store.prefetch, node.name, runs[0])
                    digests[node.name] = runs[0].data.tags["digest"]
                else:
                    break
            yield prefetched
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            store.local.end_looking()
