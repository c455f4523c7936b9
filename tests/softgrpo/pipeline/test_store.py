"""The commit protocol: whole or not at all, verified, one process at a time."""

from __future__ import annotations

import json
import logging
import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from softgrpo.errors import StoreError
from softgrpo.pipeline.store import FORMAT, LocalStore, write_atomic


def fill(store: LocalStore, key: str, text: str = "x") -> None:
    with store.staging(key) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text(text)
        store.commit(key, folder)


def test_a_commit_is_found_with_its_digest_and_leaves_nothing_aside(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "stages")
    assert store.find("a-1") is None
    (store.work("a-1") / "checkpoint").write_text("x")
    fill(store, "a-1")
    found = store.find("a-1")
    assert found is not None and found.key == "a-1" and found.format == FORMAT
    assert (store.payload("a-1") / "deep" / "file").read_text() == "x"
    assert not (store.root / ".work" / "a-1").exists()
    assert list((store.root / ".staging").iterdir()) == []


def test_the_digest_depends_on_names_and_bytes_only(tmp_path: Path) -> None:
    digests = []
    for root, text in (("a", "x"), ("b", "x"), ("c", "y")):
        store = LocalStore(tmp_path / root)
        fill(store, "k", text)
        found = store.find("k")
        assert found is not None
        digests.append(found.digest)
    assert digests[0] == digests[1] != digests[2]


def test_times_are_kept_beside_a_stage_and_go_with_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "stages")
    fill(store, "k")
    before = store.digest("k")
    store.keep_costs("k", {"cost/list_ms": 1.5})
    assert store.costs("k") == {"cost/list_ms": 1.5} and store.costs("other") == {}
    assert store.digest("k") == before and store.find("k") is not None
    (store.root / ".costs" / "k.json").write_text("{")
    assert store.costs("k") == {}, "a damaged file is as good as none"
    store.keep_costs("k", {"cost/list_ms": 2.0})
    fill(store, "k")  # made again, by what measures nothing
    assert store.costs("k") == {}


def test_an_error_while_filling_commits_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(ValueError, match="stop"), store.staging("k") as folder:
        (folder / "half").write_text("x")
        raise ValueError("stop")
    assert store.find("k") is None
    assert not list(tmp_path.rglob("half"))


def test_what_a_killed_process_left_aside_goes_with_the_commit(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("k", "k-more"):
        (store.root / ".staging" / f"{key}-0123abcd").mkdir(parents=True)
    fill(store, "k")
    assert [left.name for left in (store.root / ".staging").iterdir()] == ["k-more-0123abcd"], (
        "another key may be at work"
    )
    assert store.find("k") is not None


def test_every_damage_is_seen(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    file, mark = store.payload("k") / "deep" / "file", tmp_path / "k.json"
    damages = (
        lambda: file.write_text("y"),
        lambda: file.write_text(""),
        lambda: file.unlink(),
        lambda: file.rename(file.with_name("other")),
        lambda: file.with_name("more").write_text("x"),
        lambda: mark.unlink(),
        lambda: mark.write_text(mark.read_text()[:-5]),
        lambda: mark.write_text('{"key": "k"}'),
    )
    for damage in damages:
        fill(store, "k")
        assert store.find("k") is not None
        damage()
        assert store.find("k") is None


def test_a_second_commit_replaces_the_first(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    fill(store, "k", "old")
    fill(store, "k", "new")
    assert store.find("k") is not None
    assert (store.payload("k") / "deep" / "file").read_text() == "new"


def test_a_newer_format_is_refused_and_not_overwritten(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    fill(store, "k")
    mark = tmp_path / "k.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(StoreError, match=r"format.*\[STORE-022\]"):
        store.find("k")


def test_write_atomic_leaves_the_old_text_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def _hold(root: Path, entered: Event, leave: Event) -> None:
    with LocalStore(root).lock("k"):
        entered.set()
        leave.wait(10)


def _enter(root: Path, entered: Event) -> None:
    with LocalStore(root).lock("k"):
        entered.set()


@pytest.mark.parametrize("ending", ["leaves", "is killed"])
def test_the_lock_keeps_others_out_until_the_holder_leaves_or_dies(tmp_path: Path, ending: str) -> None:
    context = multiprocessing.get_context("fork")
    held, leave, entered = context.Event(), context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, held, leave))
    holder.start()
    assert held.wait(10)
    waiter = context.Process(target=_enter, args=(tmp_path, entered))
    waiter.start()
    assert not entered.wait(0.3)
    if ending == "leaves":
        leave.set()
    else:
        holder.kill()
    assert entered.wait(10)
    holder.join()
    waiter.join()


def test_waiting_is_said_once_and_only_when_there_is_something_to_wait_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "softgrpo.pipeline.store")
    with LocalStore(tmp_path).lock("k"), LocalStore(tmp_path).lock("other"):
        assert not caplog.records
    context = multiprocessing.get_context("fork")
    held, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, held, leave))
    holder.start()
    assert held.wait(10)
    timer = threading.Timer(0.3, leave.set)
    timer.start()
    with LocalStore(tmp_path).lock("k"):
        assert leave.is_set()
    assert caplog.messages == ["waiting for another run that works on k"]
    holder.join()
    timer.join()


def test_what_was_seen_ahead_while_another_run_replaced_it_is_read_again(tmp_path: Path) -> None:
    mine, theirs = LocalStore(tmp_path), LocalStore(tmp_path)

    def commit(text: str) -> None:
        code = """
import sys
from pathlib import Path
from softgrpo.pipeline.store import LocalStore
store = LocalStore(Path(sys.argv[1]))
store.forget("key-1")
if sys.argv[2]:
    with store.staging("key-1") as folder:
        (folder / "a.txt").write_text(sys.argv[2], encoding="utf-8")
        store.commit("key-1", folder)
"""
        subprocess.run([sys.executable, "-c", code, str(tmp_path), text], check=True)

    commit("old")
    with ThreadPoolExecutor(1) as hands:
        mine.look_ahead("key-1", hands)
    commit("new")
    found = mine.find("key-1")
    assert found is not None and found == theirs.find("key-1")
    commit("")  # only what was there goes
    with ThreadPoolExecutor(1) as hands:
        mine.look_ahead("key-1", hands)  # the files are gone
    commit("newest")
    assert mine.find("key-1") == theirs.find("key-1")
    (tmp_path / "key-1" / "a.txt").write_text("damaged", encoding="utf-8")
    with ThreadPoolExecutor(1) as hands:
        mine.look_ahead("key-1", hands)
    assert mine.find("key-1") is None


def test_what_was_seen_ahead_is_dropped_with_the_run_that_did_not_ask(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    fill(store, "key-1")
    with ThreadPoolExecutor(1) as hands:
        store.look_ahead("key-1", hands)
    store.end_looking()
    (tmp_path / "key-1" / "deep" / "file").write_text("damaged")
    assert store.find("key-1") is None


def test_a_look_that_was_called_off_is_no_look(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    fill(store, "key-1")
    with ThreadPoolExecutor(1) as hands:
        hands.submit(time.sleep, 0.2)
        store.look_ahead("key-1", hands)
        hands.shutdown(wait=False, cancel_futures=True)
    assert store.find("key-1") is not None
