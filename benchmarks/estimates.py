"""The estimate of memory and disk against what a run takes, stage by stage; `python -m benchmarks.estimates FOLDER STAGE` is one.

Each stage works in a process of its own, which reuses those before it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.peak import peak_bytes_of_process
from benchmarks.report import Row
from benchmarks.stored_run import missing

if TYPE_CHECKING:
    from softgrpo.config import ExperimentConfig

DATASET, SIZE = "ml-100k", "tiny"
FACTOR = 2.0
"""How far the estimate may be off, either way."""


def settings(stage: str = "debug") -> ExperimentConfig:
    """Returns the settings of the run that is measured."""
    from softgrpo.presets import resolve

    return resolve(DATASET, SIZE, stage)


def measure_estimates() -> list[Row]:
    """Runs `ml-100k debug tiny` and returns, by stage, the estimates of peak memory and of stored bytes over what was measured."""
    if lacks := missing("recbole"):
        return [Row("estimate of memory and disk", None, "times", at_most=FACTOR, details=f"needs {lacks}")]
    from softgrpo.data.size import data_size
    from softgrpo.pipeline.plan import plan
    from softgrpo.pipeline.resources import needs
    from softgrpo.stages.contract import STAGES

    config, rows = settings(), []
    nodes = plan(config)
    expected = needs(nodes, config, data_size(config))
    with TemporaryDirectory() as name:
        for stage in STAGES:  # `recall` brings `split` and `embed` with it
            kinds = ("split", "embed", stage) if stage == "recall" else (stage,)
            own = [node.name for node in nodes if node.stage.name in kinds]
            peak, stored = _in_process(Path(name), stage, own)
            rows.append(_row(f"memory of {stage}", max(expected.memory[each] for each in own), peak))
            rows.append(_row(f"disk of {stage}", sum(expected.disk[each] for each in own), stored))
    return rows


def _row(what: str, expected: float, measured: float) -> Row:
    details = f"{expected / 2**20:.3g} MiB against {measured / 2**20:.3g} MiB"
    return Row(f"estimate over {what}", expected / measured, "times", FACTOR, 1 / FACTOR, details)


def _in_process(folder: Path, stage: str, names: list[str]) -> tuple[int, int]:
    """Runs a plan up to a stage; returns the peak memory of the process and the bytes of the stages of some names."""
    command = [sys.executable, "-m", "benchmarks.estimates", str(folder), stage, *names]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    peak, stored = done.stdout.split()[-2:]
    return int(peak), int(stored)


def main(folder: Path, stage: str, names: list[str]) -> None:
    """Runs a plan up to a stage in this process, and prints what `_in_process` returns."""
    from softgrpo.pipeline.run import run_standalone

    result = run_standalone(settings(), until=stage, output=folder)
    files = [path for name in names for path in result.folders[name].rglob("*") if path.is_file()]
    print(peak_bytes_of_process(), sum(path.stat().st_size for path in files))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
