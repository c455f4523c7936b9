"""The search for a merge: its time for all merges and for one, that of pruning, and its peak memory with pools of several sizes.

`python -m benchmarks.merges POOL THREAD` is the process that measures the memory of one pool.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.memory import peak_bytes
from benchmarks.report import Row
from benchmarks.stored_run import missing

if TYPE_CHECKING:
    from softgrpo.config import FusionConfig, MergeMethod

Lists = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Items and scores (W, M, D), targets (W, 1)."""
POOLS, THREADS = (2, 5, 8), ("main", "other")
"""The search runs in a process's first thread, or in another, which gets its memory from a heap of its own."""
SMALL, LARGE = (3772, 943), (12_080, 6_040)
"""Policy and validation windows of the size of ml-100k and of ml-1m."""
TOP, DEPTH, SHARD = 300, 100, 64
SECONDS, TIMES_KEPT = 60.0, 2.0
PRUNED, DEEP, PRUNING_MILLISECONDS = 64, 500, 5.0
PRUNING: tuple[MergeMethod, ...] = ("score", "rrf", "quota")


def made_up(windows: int, recallers: int, rng: np.random.Generator, depth: int = DEPTH) -> Lists:
    """Returns lists that overlap, and targets of which they hold some."""
    top = depth * TOP // DEPTH
    noise = rng.random((windows, recallers, top)) + 0.004 * np.arange(top)
    items = np.argsort(noise, axis=2)[:, :, :depth]
    scores = -np.sort(-rng.normal(size=items.shape).astype(np.float32), axis=2)
    return torch.from_numpy(items), torch.from_numpy(scores), torch.from_numpy(rng.integers(0, top, (windows, 1)))


def search(policy: Lists, valid: Lists, merges: tuple[FusionConfig, ...], steps: int) -> None:
    """Searches merges over made-up lists, as the stage `data` does with the grid alone."""
    from softgrpo.baselines.merge_search import search_merges
    from softgrpo.ranking.judged import JudgedLists
    from softgrpo.ranking.searched import SearchedLists

    recallers = policy[0].shape[1]
    platt = torch.tensor([[1.0, 0.0]] * recallers, dtype=torch.float64)

    def judge(lists: Lists, fusion: FusionConfig) -> SearchedLists:
        items, scores, targets = lists
        hit = torch.nonzero((items == targets[:, :, None]).flatten(1).any(1))[:, 0]
        parts = (hit[first : first + SHARD] for first in range(0, max(1, len(hit)), SHARD))
        shards = (JudgedLists.build(items[part], scores[part], targets[part], fusion, platt) for part in parts)
        return SearchedLists.join(shards, targets[hit], len(items))

    names = tuple(f"recaller {number}" for number in range(recallers))
    search_merges(merges, lambda each: judge(policy, each), lambda each: judge(valid, each), names, steps, 0)


def measure_pruning(windows: int = PRUNED, recallers: int = POOLS[-1], depth: int = DEEP) -> Row:
    """Measures processor milliseconds in which the items of a window that cannot win are left out, under the slowest merge."""
    from softgrpo.config import FusionConfig
    from softgrpo.ranking.fusion import align, contenders

    items, scores, _ = made_up(windows, recallers, np.random.default_rng(0), depth)
    times = {}
    for method in PRUNING:
        fusion = FusionConfig(method=method)
        aligned = align(items, scores, fusion)
        contenders(aligned, fusion)  # warms up
        start = time.process_time()
        left = contenders(aligned, fusion)
        times[method] = 1000 * (time.process_time() - start) / windows
    slowest = max(times, key=lambda method: times[method])
    details = ", ".join(f"{method} {value:.2f}" for method, value in times.items())
    return Row(
        f"pruning a window of {recallers} lists of {depth}",
        times[slowest],
        "ms of one core",
        at_most=PRUNING_MILLISECONDS,
        details=f"{details}; of {aligned.items.shape[1]} items at most {left.items.shape[1]} are left by {PRUNING[-1]}",
    )


def measure_merges() -> list[Row]:
    """Measures processor seconds of all merges and of one, of pruning, and the peak memory of pools in processes of their own."""
    what = "search over all merges"
    if lacks := missing():
        return [Row(what, None, "s of one core", at_most=SECONDS, details=f"needs {lacks}")]
    from softgrpo.config import FusionChoice

    rng, merges = np.random.default_rng(0), FusionChoice().merges
    policy, valid = (made_up(windows, 3, rng) for windows in LARGE)
    seconds = []
    for tried in (merges[:1], merges[:1], merges):  # the first round warms up
        start = time.process_time()
        search(policy, valid, tried, 10)
        seconds.append(time.process_time() - start)
    lists = f"{LARGE[0]:,} policy windows, 3 lists of {DEPTH}"
    rows = [
        Row(what, seconds[2], "s of one core", at_most=SECONDS, details=f"{len(merges)} merges, grid, {lists}"),
        Row(f"{what} over one", seconds[2] / seconds[1], "times", details=f"{seconds[1]:.1f} s for {merges[0].name}"),
        measure_pruning(),
    ]
    for thread in THREADS:
        peaks = {pool: _in_process(pool, thread) for pool in POOLS}
        told = ", ".join(f"{pool}: {peak / 2**20:.0f} MiB" for pool, (peak, _) in peaks.items())
        peak, kept = peaks[POOLS[-1]]
        name = f"search for a merge, {thread} thread: peak memory over what is kept"
        rows.append(Row(name, peak / kept, "times", at_most=TIMES_KEPT, details=f"beyond the lists, pools of {told}"))
    return rows


def _in_process(recallers: int, thread: str) -> tuple[int, int]:
    """Returns the peak beyond the lists and the size of the aligned lists, in bytes."""
    command = [sys.executable, "-m", "benchmarks.merges", str(recallers), thread]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    peak, kept = done.stdout.split()[-2:]
    return int(peak), int(kept)


def _memory(recallers: int) -> tuple[int, int]:
    """Searches in this process; returns what `_in_process` does."""
    from softgrpo.config import FusionChoice
    from softgrpo.ranking.fusion import align

    rng, merges = np.random.default_rng(0), FusionChoice().merges
    policy, valid = (made_up(windows, recallers, rng) for windows in SMALL)
    few = (policy[0][:4], policy[1][:4], policy[2][:4])
    search(few, few, merges[:1], 2)  # imports are not counted
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Linux: the peak is that from here on
    before = peak_bytes(torch.device("cpu"))
    search(policy, valid, merges, 2)
    peak = peak_bytes(torch.device("cpu")) - before
    kept = sum(
        tensor.nbytes for lists in (policy, valid) for tensor in vars(align(*lists[:2], merges[0])).values()
    )  # fmt: skip
    return peak, kept


if __name__ == "__main__":
    found: list[tuple[int, int]] = []
    if sys.argv[2] == "main":
        found.append(_memory(int(sys.argv[1])))
    else:
        other = threading.Thread(target=lambda: found.append(_memory(int(sys.argv[1]))))
        other.start()
        other.join()
    print(*found[0])
