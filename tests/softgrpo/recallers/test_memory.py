"""What reading a file of lists takes does not grow with the file, nor with the interactions beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from softgrpo.recallers.candidate_checks import Positions
from tests.softgrpo.data.cases import corpus_of

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.made_up import Place, make
from softgrpo.data.corpus import load_corpus
from softgrpo.data.windows import load_windows
from softgrpo.recallers.candidate_checks import Positions, check_candidates
from softgrpo.recallers.from_file import read_parts
from tests.support.memory import printed_peak

place = Place(Path(sys.argv[1]), int(sys.argv[2]), 1)
if sys.argv[3] == "write":
    make(place)
    raise SystemExit

with printed_peak():
    corpus, windows = load_corpus(place.stage("split")), load_windows(place.stage("split"))
    positions, first = Positions(corpus), 0
    for lists in read_parts(place.file("R0"), "R0", corpus, windows, 100, positions, 450_000):
        check_candidates(lists, corpus, windows.at(slice(first, first + len(lists.items))), positions)
        first += len(lists.items)
assert first == len(windows)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells the memory that lies in no file")
def test_a_file_four_times_as_long_takes_hardly_more(tmp_path: Path) -> None:
    """Of 1,000 and 4,000 users; 160,000 and 640,000 interactions, 0.8 and 3.2 million rows."""
    peaks = []
    for users in (1000, 4000):
        folder = tmp_path / str(users)
        folder.mkdir()
        told = ""
        for what in ("write", "read"):
            command = [sys.executable, "-c", PROGRAM, str(folder), str(users), what]
            root = Path(__file__).parents[3]
            told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
        peaks.append(float(told))
    assert peaks[1] < 1.3 * peaks[0], f"MiB: {peaks}"


def test_positions_are_known_for_the_users_of_a_call() -> None:
    """A place is that of the first of repeated pairs; users come in any order, and ranges of users one after the other."""
    corpus = corpus_of([[3, 1, 3], [2], [0, 1], [5, 4, 2]])
    positions, far = Positions(corpus), np.iinfo(np.int64).max
    assert positions(np.array([2, 1], np.int32), np.array([1, 5], np.int32)).tolist() == [1, far]
    assert positions(np.array([0, 0, 0], np.int32), np.array([3, 1, 0], np.int32)).tolist() == [0, 1, far]
    assert positions(np.array([3, 0], np.int32), np.array([2, 1], np.int32)).tolist() == [2, 1]
    assert positions(np.empty(0, np.int32), np.empty(0, np.int32)).tolist() == []
