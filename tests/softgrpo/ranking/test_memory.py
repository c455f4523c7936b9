"""What aligning and thinning out lists takes at its peak follows from what is kept, in any thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import threading
import numpy as np, torch
from softgrpo.config import FusionConfig
from softgrpo.ranking.fusion import align, contenders

def of_process(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024

def size(aligned):
    return sum(tensor.nbytes for tensor in vars(aligned).values())

def search():
    rng = np.random.default_rng(0)
    items = torch.from_numpy(np.argsort(rng.random((3000, 8, 300)) + 0.004 * np.arange(300), axis=2)[:, :, :100])
    scores = torch.from_numpy(-np.sort(-rng.random(items.shape, dtype=np.float32), axis=2))
    fusion = FusionConfig()
    contenders(align(items[:4], scores[:4], fusion), fusion)  # code that is loaded at the first call is not counted
    open("/proc/self/clear_refs", "w").write("5")  # the peak is that from here on
    before, kept = of_process("VmRSS:"), 0
    for method in ("rrf", "score", "quota", "score"):
        fusion = FusionConfig(method=method)
        aligned = align(items, scores, fusion)
        less = contenders(aligned, fusion)
        kept = max(kept, size(aligned) + size(less))
        del aligned, less
    print((of_process("VmHWM:") - before) / kept)

thread = threading.Thread(target=search)
thread.start()
thread.join()
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").is_file(), reason="only Linux tells the peak of a part of a process"
)
def test_the_peak_is_a_small_multiple_of_what_is_kept() -> None:
    """Another thread than the first one gets its memory from a heap of its own, which grows most easily."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 5.0, "it was 8.6 when pieces were kept and 2.5 to 3.3 when they fill one tensor"
