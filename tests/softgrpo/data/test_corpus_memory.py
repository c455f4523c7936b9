"""Looking at all interactions takes little memory beside them: they are mapped, and looked at a range of users at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from softgrpo.common.records import Corpus, Part
from softgrpo.common.training_part import training_counts
from softgrpo.config import SplitConfig
from softgrpo.data.corpus import load_corpus, write_corpus
from softgrpo.data.windows import later_training_share, make_windows, tied_target_share
from softgrpo.policy.blocks.pace import in_seconds
from softgrpo.recallers.candidate_checks import Positions
from tests.support.memory import printed_peak

USERS, EACH, ITEMS = 20_000, 400, 1000
folder = Path(sys.argv[1])
if sys.argv[2] == "write":
    user = np.repeat(np.arange(USERS, dtype=np.int32), EACH)
    item = np.tile(np.arange(EACH, dtype=np.int32), USERS)
    time = 1e9 + np.arange(len(user), dtype=np.float64)
    names = pd.DataFrame({"token": np.arange(USERS).astype(str)})
    items = pd.DataFrame({"token": np.arange(ITEMS).astype(str), "title": "", "genres": ""})
    write_corpus(folder, Corpus(names, items, user, item, time, np.arange(USERS + 1, dtype=np.int64) * EACH))
    raise SystemExit

def look(corpus):
    windows = make_windows(corpus, SplitConfig())
    training_counts(corpus, windows)
    later_training_share(corpus, windows)
    tied_target_share(corpus, windows, Part.TEST)
    Positions(corpus)(np.zeros(3, dtype=np.int32), np.arange(3, dtype=np.int32))
    assert in_seconds(corpus.time)

with printed_peak():
    look(load_corpus(folder))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells the memory that lies in no file")
def test_all_interactions_are_looked_at_in_little_memory(tmp_path: Path) -> None:
    """8 million interactions are 122 MiB in their files; a place of eight bytes for each would be 61 MiB."""
    told, root = "", Path(__file__).parents[3]
    for what in ("write", "look"):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), what]
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert float(told) < 100, f"{told} MiB"
