"""`python -m tests.fuzz --seconds 600`: the readers of outside files against random inputs for a while, within two gigabytes.

Each check gets its share of the time. An input that breaks something ends its check, after hypothesis has made it as small as it
can, and the program ends with 1; put the input into `tests/fuzz/corpus/<check>/`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from hypothesis import HealthCheck, given, settings

from tests.fuzz.inputs import RIGHT, TARGETS

ROOM_BYTES = 2 * 1024**3
EXAMPLES = 200


def fuzz(name: str, seconds: float, folder: Path) -> int:
    """Gives a check random inputs for a while.

    Args:
        name: Of the check.
        seconds: How long; a round that has begun is finished.
        folder: For what it writes.

    Returns:
        The number of inputs.

    Raises:
        BaseException: What an input did, with the input in a note.
    """
    check, inputs = TARGETS[name]
    end, count = time.monotonic() + seconds, 0

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def one_round(value: Any) -> None:
        nonlocal count
        count += 1
        check(value, folder)

    while True:
        one_round()
        if time.monotonic() > end:
            return count


def holds(name: str, seconds: float, folder: Path) -> bool:
    """Tells whether a check found nothing in this time, and prints what it was given or what broke."""
    began = time.monotonic()
    try:
        count = fuzz(name, seconds, folder)
    except Exception:  # broad: whatever it was is what is looked for
        traceback.print_exc()
        return False
    print(f"{name:14} {count:7,} inputs in {time.monotonic() - began:4.0f} s", flush=True)
    return True


def limit_memory() -> None:
    """Lets this process take two gigabytes more than it has now, of addresses, so that what takes more fails."""
    most = psutil.Process().memory_info().vms + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="in all (default 600)")
    parser.add_argument("--only", nargs="+", choices=sorted(TARGETS), default=list(TARGETS), help="these checks")
    chosen = parser.parse_args(arguments)
    with TemporaryDirectory() as base:
        for name in chosen.only:
            folder = Path(base) / name
            folder.mkdir()
            TARGETS[name][0](RIGHT[name], folder)  # so that all is imported before memory is limited
        limit_memory()
        broken = [name for name in chosen.only if not holds(name, chosen.seconds / len(chosen.only), Path(base) / name)]
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
