"""A benchmark that grows: time and peak memory of each stage against the number of users, with fitted exponents.

    python -m benchmarks.scale --users 1500 6000 --lists 3 8 --markdown scale.md

Made-up data with the statistics of ml-1m go from files of lists through the stages `recall`, `data`, `check` and `gates`, the
report and `softgrpo score`; no recaller and no language model is trained. Each step works in a process of its own:
`python -m benchmarks.scale step NAME FOLDER USERS LISTS SAMPLE` is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.growth import Measured, markdown
from benchmarks.made_up import Place, make
from benchmarks.peak import anonymous_bytes, peak_bytes_of_process

USERS, LISTS = (1500, 6000), (3, 8)
PAUSE = 0.02
"""Seconds between two looks at the memory of a step."""


def recall(place: Place) -> None:
    """Reads the file of lists of the first recaller, as its stage does."""
    from softgrpo.stages import recall_file

    _run(place, recall_file.run, "recall", ("split",), place.recallers[0])


def data(place: Place) -> None:
    """Pools and describes the lists, searches merge and static weights, writes the prompts."""
    from softgrpo.stages import data as stage

    _run(place, stage.run, "data", ("split", *(f"recall-{name}" for name in place.recallers)))


def check(place: Place) -> None:
    """Looks for leaks in what `data` stored."""
    from softgrpo.stages import check as stage

    _run(place, stage.run, "check", ("split", *(f"recall-{name}" for name in place.recallers), "data"))


def gates(place: Place) -> None:
    """Fits the gate by thirds of history length and judges every row on all validation windows."""
    from softgrpo.stages import gates as stage

    _run(place, stage.run, "gates", ("split", "data"))


def report(place: Place) -> None:
    """Writes the report of all test windows with made-up weights of gates and language models."""
    from benchmarks.reporting import write_made_up_report
    from softgrpo.stages.inputs import Prepared

    prepared = Prepared(place.settings(), place.stage("split"), place.stage("data"))
    write_made_up_report(prepared, prepared.static, place.stage("test"))


def score(place: Place) -> None:
    """Scores all users from histories and lists to Parquet with the static mixture, as `softgrpo score` does."""
    from softgrpo.data.streams import Shard
    from softgrpo.serving.histories import open_history, open_lists
    from softgrpo.serving.recommended import RequestWriter
    from softgrpo.serving.scoring import AskedUsers, ScoringSummary
    from softgrpo.serving.scoring import score as scored
    from softgrpo.serving.served_run import ServedRun

    config = place.settings()
    folders = {name: place.stage(name) for name in ("split", "data", "gates")}
    out = place.stage("score")
    out.mkdir()
    run = ServedRun.open(config, folders, "static", out, place.recallers)
    lists = {name: open_lists(place.current(name), config.data) for name in place.recallers}
    asked = AskedUsers(open_history(place.history, config.data), lists, Shard(0, 1), None, config.fusion.k)
    with RequestWriter(out / "scored.parquet", place.recallers) as writer:
        for batch in scored(run, asked, ScoringSummary()):
            writer.write(batch)


STEPS: dict[str, tuple[Callable[[Place], None], str]] = {
    "recall": (recall, "recall-R0"),
    "data": (data, "data"),
    "check": (check, "check"),
    "gates": (gates, "gates"),
    "report": (report, "test"),
    "score": (score, "score"),
}
"""What is measured, and the folder that it fills."""


def _run(
    place: Place, run: Callable[..., dict[str, float]], name: str, reads: Sequence[str], variant: str = ""
) -> None:
    """Runs one stage in this process."""
    from softgrpo.pipeline.run import LogReporter
    from softgrpo.stages.contract import StageContext

    out = place.stage(f"{name}-{variant}" if variant else name)
    out.mkdir()
    inputs = {each: place.stage(each) for each in reads}
    run(StageContext(place.settings(), variant, inputs, out, place.folder / "work", LogReporter(name)))


def other_lists(place: Place) -> None:
    """Reads the files of the other recallers, whose time is that of the first."""
    from softgrpo.stages import recall_file

    for name in place.recallers[1:]:
        _run(place, recall_file.run, "recall", ("split",), name)


PREPARING: dict[str, Callable[[Place], None]] = {"make": make, "other-lists": other_lists}
"""What is not measured."""


def measure(users: int, lists: int, folder: Path, sample: int = 0) -> list[Measured]:
    """Makes data and measures every step with them."""
    place, found = Place(folder, users, lists, sample), []
    _in_process("make", place)
    for name in STEPS:
        found.append(_in_process(name, place))
        if name == "recall":
            _in_process("other-lists", place)
    return found


def _in_process(step: str, place: Place) -> Measured:
    command = [sys.executable, "-m", "benchmarks.scale", "step", step]
    command += [str(place.folder), str(place.users), str(place.lists), str(place.sample)]
    own = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        while process.poll() is None:
            own = max(own, anonymous_bytes(process.pid))
            time.sleep(PAUSE)
        told, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds, peak = map(float, told.split()[-2:])
    out = place.stage(STEPS[step][1]) if step in STEPS else place.folder
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"{place.users:,} users, {place.lists} lists, {step}: {seconds:.1f} s, {peak / 2**20:,.0f} MiB, "
        f"{own / 2**20:,.0f} MiB in no file",
        file=sys.stderr,
        flush=True,
    )
    return Measured(step, place.users, place.lists, seconds, peak, own, stored)


def step(name: str, place: Place) -> None:
    """Works in this process; prints the seconds of one core and the peak memory in bytes."""
    import torch

    torch.set_num_threads(1)
    work = PREPARING[name] if name in PREPARING else STEPS[name][0]
    begin = time.process_time()
    work(place)
    print(time.process_time() - begin, peak_bytes_of_process())


def main(words: Sequence[str] | None = None) -> int:
    """Measures and prints the tables; an exponent above its aim is a number and not an error."""
    given = list(sys.argv[1:] if words is None else words)
    if given[:1] == ["step"]:
        name, folder, *numbers = given[1:]
        step(name, Place(Path(folder), *map(int, numbers)))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--users", nargs="+", type=int, default=USERS, help="numbers of users, ascending")
    parser.add_argument("--lists", nargs="+", type=int, default=LISTS, help="numbers of recallers")
    parser.add_argument(
        "--sample",
        type=int,
        default=0,
        metavar="N",
        help="learn and choose on N windows and keep no lists, so that few users show what many take",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured to a file")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the tables as docs/performance.md holds them"
    )
    asked = parser.parse_args(given)
    points = []
    for lists in asked.lists:
        for users in asked.users:
            with TemporaryDirectory() as folder:
                points += measure(users, lists, Path(folder), asked.sample)
    text = markdown(points)
    print(text)
    if asked.json is not None:
        asked.json.write_text(json.dumps([vars(point) for point in points], indent=1) + "\n", encoding="utf-8")
    if asked.markdown is not None:
        asked.markdown.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
