"""Reading interactions of ml-25m's shape, in a process of its own; `python -m benchmarks.reading FILE` is that process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.report import Row

USERS, ITEMS, ROWS = 162_541, 59_047, 25_000_095
"""As in ml-25m."""
FEWEST = 20
"""Interactions of a user, at least; the others are spread as a log-normal distribution is."""
FIRST, LAST = 820_454_400, 1_574_208_000
"""Seconds since 1970 that the users begin between."""
SECONDS, BYTES = 60.0, 6 * 2**30


def measure_reading(rows: int = ROWS, users: int = USERS, items: int = ITEMS) -> list[Row]:
    """Writes a CSV of made-up interactions and reads it: corpus, windows, check of leaks.

    Args:
        rows: About how many interactions.
        users: How many.
        items: How many.

    Returns:
        The time, and the peak memory.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        written = write_interactions(path, rows, users, items)
        command = [sys.executable, "-m", "benchmarks.reading", str(path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
        parts = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
        size = path.stat().st_size
    seconds = sum(parts[name] for name in ("corpus", "windows", "check"))
    what = f"reading {written / 1e6:.1f} M interactions of {users:,} users from a CSV of {size / 2**20:.0f} MiB"
    details = ", ".join(f"{name} {parts[name]:.1f} s" for name in ("corpus", "windows", "check", "CPU"))
    return [
        Row(what, seconds, "s", at_most=SECONDS, details=details),
        Row(f"{what}: peak memory", parts["peak"] / 2**30, "GiB", at_most=BYTES / 2**30),
    ]


def write_interactions(path: Path, rows: int, users: int, items: int, seed: int = 0) -> int:
    """Writes interactions as MovieLens does, sorted by user and item, and returns how many.

    A user rates in bursts, so that about a third of the interactions share a second with another one.
    """
    import pyarrow as pa  # the benchmark of the trainer needs neither
    import pyarrow.csv as arrow_csv

    rng = np.random.default_rng(seed)
    shares = rng.lognormal(0.0, 1.2, users)
    counts = np.minimum(FEWEST + (shares / shares.sum() * (rows - FEWEST * users)).astype(np.int64), items // 2)
    user = np.repeat(np.arange(1, users + 1, dtype=np.int32), counts)
    popular = rng.permutation(items)
    item = popular[np.minimum((items * rng.random(len(user)) ** 3).astype(np.int64), items - 1)].astype(np.int32)
    pairs = np.unique(user.astype(np.int64) * items + item)  # each once, sorted
    user, item = (part.astype(np.int32) for part in np.divmod(pairs, items))
    begins = rng.integers(FIRST, LAST, users + 1)
    stamp = begins[user] + rng.integers(0, np.maximum(3 * counts[user - 1], 1))
    table = pa.table(
        {"userId": user, "movieId": item + 1, "rating": rng.integers(1, 11, len(user)) / 2, "timestamp": stamp}
    )
    arrow_csv.write_csv(table, path, arrow_csv.WriteOptions(quoting_style="none"))
    return len(user)


def main(path: Path) -> None:
    """Reads a file, and prints how long each part took and the peak memory in bytes."""
    from benchmarks.peak import peak_bytes_of_process
    from softgrpo.config import DataConfig, SplitConfig
    from softgrpo.data.corpus import read_corpus
    from softgrpo.data.windows import check_no_leak, make_windows

    begin, worked = time.perf_counter(), time.process_time()
    corpus = read_corpus(DataConfig(dataset=path.stem, source=path), 42)
    read = time.perf_counter()
    windows = make_windows(corpus, SplitConfig())
    cut = time.perf_counter()
    check_no_leak(corpus, windows)
    end = time.perf_counter()
    times = {"corpus": read - begin, "windows": cut - read, "check": end - cut, "CPU": time.process_time() - worked}
    print(*(f"{name} {value}" for name, value in (times | {"peak": peak_bytes_of_process()}).items()), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
