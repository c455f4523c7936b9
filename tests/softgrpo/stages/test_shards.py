from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from softgrpo.common.memory import free_bytes
from softgrpo.config import LimitsConfig
from softgrpo.errors import MemoryLimitError
from softgrpo.stages.shards import ENTRY_BYTES, MOST_ENTRIES, in_shards, shard_size
from tests.softgrpo.stages.tiny_run import coloured_corpus, four_windows, random_items, run_stages, toy_model


def gigabytes(entries: int) -> LimitsConfig:
    return LimitsConfig(memory_gb=entries * ENTRY_BYTES / 1e9)


def test_the_size_follows_from_the_limit() -> None:
    # two lists of 10 over a union of at most 20 items: 40 entries a window
    assert shard_size(gigabytes(40), 2, 10) == 1
    assert shard_size(gigabytes(139), 2, 10) == 3
    assert shard_size(LimitsConfig(memory_gb=1e6), 2, 10) == MOST_ENTRIES // 40, "larger ones are not faster"
    assert shard_size(LimitsConfig(memory_gb=1e6), 100, 10_000) == 1


def test_a_limit_below_one_window_is_refused() -> None:
    with pytest.raises(MemoryLimitError, match=r"for one window of 2 lists of 10\b.*limits\.memory_gb.*\[MEMORY-002\]"):
        shard_size(gigabytes(39), 2, 10)


def test_shards_cover_all_rows() -> None:
    rows = np.arange(3, 10)
    assert [shard.tolist() for shard in in_shards(rows, 3)] == [[3, 4, 5], [6, 7, 8], [9]]
    assert [shard.tolist() for shard in in_shards(rows[:0], 3)] == [[]]


def test_free_memory_is_the_least_of_machine_and_group(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 3000 kB\nMemAvailable: 2000 kB\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 2000 * 1024
    (tmp_path / "memory.current").write_text("500\n", encoding="utf-8")
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 2000 * 1024
    (tmp_path / "memory.max").write_text("1500\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 1000
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 300\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 1300  # cached files are given back
    (tmp_path / "own").write_text("0::/user/job\n", encoding="utf-8")
    inner = tmp_path / "user" / "job"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("700\n", encoding="utf-8")
    (inner / "memory.current").write_text("500\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 200
    (tmp_path / "user" / "memory.max").write_text("600\n", encoding="utf-8")
    (tmp_path / "user" / "memory.current").write_text("550\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 50


def test_groups_of_the_first_version_are_asked_too(tmp_path: Path) -> None:
    """Where no limit is set, they name one that no machine has."""
    meminfo, outer, inner = tmp_path / "meminfo", tmp_path / "memory", tmp_path / "memory" / "job"
    meminfo.write_text("MemAvailable: 2000 kB\n", encoding="utf-8")
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("7:pids:/\n4:memory,hugetlb:/job\n0::/\n", encoding="utf-8")
    for folder, limit in ((outer, 9223372036854771712), (inner, 1500)):
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n", encoding="utf-8")
        (folder / "memory.usage_in_bytes").write_text("900\n", encoding="utf-8")
    (inner / "memory.stat").write_text("inactive_file 5\ntotal_inactive_file 300\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 900
    (tmp_path / "own").write_text(
        "4:memory:/of/the/host\n", encoding="utf-8"
    )  # a container sees its group as the outermost
    (outer / "memory.limit_in_bytes").write_text("1000\n", encoding="utf-8")
    assert free_bytes(meminfo, tmp_path, tmp_path / "own") == 100


DRAWN = {".html", ".md", ".png", ".svg"}
"""Pages and figures; what is drawn is in the other files."""


def test_no_stored_byte_depends_on_the_limit(tmp_path: Path) -> None:
    model, corpus, items = toy_model(tmp_path / "model"), coloured_corpus(), random_items(len(four_windows()))
    one_window = 2 * 2 * items.shape[2] * ENTRY_BYTES / 1e9
    stored = []
    for memory_gb in (one_window, 100.0):
        run = run_stages(
            tmp_path / f"{memory_gb}",
            model,
            corpus,
            items,
            limits={"memory_gb": memory_gb},
            fusion={"method": "auto", "k": 5, "min_share": {"Left": 0.1}},
        )
        shards = len(list(run.prepared.sharded(np.arange(40)).shards()))
        assert shards == (40 if memory_gb == one_window else 1)
        folders = [run.folders[name] for name in ("data", "gates", "test")]
        files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        stored.append(
            {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files if path.suffix not in DRAWN}
        )
    assert stored[0].keys() == stored[1].keys() and len(stored[0]) > 20
    assert [name for name in stored[0] if stored[0][name] != stored[1][name]] == []
