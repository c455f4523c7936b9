"""Signs of life: held by whoever works, free when its process is gone, unknown in another folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.tracking.liveness import Signs

HOLDER = """
import sys, time
from pathlib import Path
from tasks.tracking.liveness import Signs
with Signs(Path(sys.argv[1])).given() as sign:
    print(sign, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def signs(tmp_path: Path) -> Signs:
    return Signs(tmp_path / "alive")


def test_a_sign_is_alive_inside_its_block_and_dead_behind_it(signs: Signs) -> None:
    with signs.given() as sign:
        assert not signs.is_dead(sign)
        with signs.given() as other:
            assert other != sign
    assert signs.is_dead(sign) and signs.is_dead(other)


def test_a_sign_dies_with_its_process_however_that_ends(signs: Signs) -> None:
    command = [sys.executable, "-c", HOLDER, str(signs.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        sign = holder.stdout.readline().strip()
        assert not signs.is_dead(sign)
        holder.kill()
    assert signs.is_dead(sign)


def test_nothing_is_known_of_signs_that_were_given_elsewhere_or_forgotten(signs: Signs, tmp_path: Path) -> None:
    with signs.given() as sign:
        shutil.copytree(signs.folder, tmp_path / "copy")
        assert not Signs(tmp_path / "copy").is_dead(sign)  # nobody holds the copy, and its process is alive
        signs.folder.rename(tmp_path / "moved")
        assert not Signs(tmp_path / "moved").is_dead(sign)
    assert Signs(tmp_path / "moved").is_dead(sign)
    assert not Signs(tmp_path / "nowhere").is_dead(sign)
    Signs(tmp_path / "moved").forget(sign)
    assert not Signs(tmp_path / "moved").is_dead(sign)
