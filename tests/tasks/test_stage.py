"""Orders of stages: what a forced stage that is tried again has to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from softgrpo.config import ExperimentConfig
from softgrpo.pipeline.plan import plan
from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.running.order import Order
from softgrpo.tasks.stage import Progress


def commit(local: LocalStore, key: str) -> None:
    with local.staging(key) as folder:
        (folder / "file").write_text("the same bytes each time")
        local.commit(key, folder)


def ordered(local: LocalStore, *, force: tuple[str, ...]) -> tuple[Order, str]:
    store: Any = SimpleNamespace(local=local)
    config = ExperimentConfig()
    order = Progress(config, store, "parent", force, local.root / "records").order(plan(config)[0])
    return order, order.key()


def test_a_forced_stage_that_was_made_for_the_order_is_not_made_again(tmp_path: Path) -> None:
    local = LocalStore(tmp_path)
    order, key = ordered(local, force=("split",))
    assert order.forced and not order.is_made(key)  # nothing is there
    commit(local, key)
    assert not order.is_made(key)  # of another run
    order.note_made(key)
    assert order.is_made(key)  # the upload failed after the commit: only that is left
    assert replace(order, remote=True).is_made(key)  # on a worker of a cluster too
    order, key = ordered(local, force=("split",))
    assert not order.is_made(key)  # a new order: what is there is what is to be repeated
    order.note_made(key)
    assert order.is_made(key)


def test_other_stages_are_looked_for(tmp_path: Path) -> None:
    local = LocalStore(tmp_path)
    order, key = ordered(local, force=())
    commit(local, key)
    assert not order.forced and not order.is_made(key)
