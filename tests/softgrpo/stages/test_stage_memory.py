"""The stage `data` takes hardly more memory with five and with eight recallers than with two, in any thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, threading
from pathlib import Path
import numpy as np
from softgrpo.common.artifacts import CANDIDATES
from softgrpo.common.records import CandidateLists
from softgrpo.config import ExperimentConfig
from softgrpo.data.corpus import write_corpus
from softgrpo.data.windows import write_windows
from softgrpo.pipeline.run import LogReporter
from softgrpo.recallers.stored_lists import write_candidates
from softgrpo.stages import data
from softgrpo.stages.contract import StageContext
from tests.softgrpo.data.cases import corpus_of, windows_of
from tests.softgrpo.stages.tiny_run import PARTS

USERS, ITEMS = 700, 900
folder, names = Path(sys.argv[1]), [f"R{number}" for number in range(int(sys.argv[2]))]
rng = np.random.default_rng(0)
sequences = [rng.permutation(ITEMS)[:10].tolist() for _ in range(USERS)]
windows = windows_of([(user, *part) for user in range(USERS) for part in PARTS], [2] * USERS)
inputs = {"split": folder / "split"} | {f"recall-{name}": folder / name for name in names}
for made in inputs.values():
    made.mkdir()
write_corpus(inputs["split"], corpus_of(sequences))
write_windows(inputs["split"], windows)
for name in names:
    items = np.argsort(rng.random((len(windows), ITEMS)) + 0.001 * np.arange(ITEMS), axis=1)[:, :99].astype(np.int32)
    answer = np.array([sequences[user][start] for user, start in zip(windows.user, windows.start)], dtype=np.int32)
    items = np.where(items == answer[:, None], -2, items)  # the answer is last, so that every window is searched
    items = np.stack([np.append(row[row != -2], answer[number])[-99:] for number, row in enumerate(items)])
    scores = -np.sort(-rng.normal(size=items.shape).astype(np.float32), axis=1)
    write_candidates(inputs[f"recall-{name}"] / CANDIDATES, CandidateLists((name,), items[:, None], scores[:, None]))
config = ExperimentConfig.model_validate(
    {"recall": {"recallers": names}, "evaluation": {"baselines": (), "ks": (5,), "grid_steps": 2}, "features": {"content": False}}
)

def peak(out):
    out.mkdir()
    open("/proc/self/clear_refs", "w").write("5")
    data.run(StageContext(config, "", inputs, out, folder / "work", LogReporter("data")))
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(lines["VmHWM"].split()[0]) / 1024)

peak(folder / "main")
thread = threading.Thread(target=peak, args=(folder / "other",))
thread.start()
thread.join()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").is_file(), reason="only Linux tells the peak of a part of a process"
)
def test_the_peak_hardly_grows_with_the_pool(tmp_path: Path) -> None:
    peaks = {}
    for pool in (2, 5, 8):
        folder = tmp_path / str(pool)
        folder.mkdir()
        command = [sys.executable, "-c", PROGRAM, str(folder), str(pool)]
        root = Path(__file__).parents[3]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        peaks[pool] = [float(line) for line in done.stdout.split()[-2:]]
    assert all(peaks[pool][place] < 1.3 * peaks[2][place] for pool in (5, 8) for place in (0, 1)), f"MiB: {peaks}"
