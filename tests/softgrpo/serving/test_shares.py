"""Users scored by shares: the file of all shares is that of one process, byte for byte, and no damaged share is taken for whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from softgrpo.common.digests import digest_file
from softgrpo.data.streams import Shard
from softgrpo.errors import SoftGRPOError, StoreError
from softgrpo.flows.results.finished import FinishedRun
from softgrpo.flows.results.scoring import ScoreOptions, notes_of, open_asked, score_run
from softgrpo.flows.results.share_worker import ScoreJob, code_here, files_of, forget, score_share
from softgrpo.flows.results.shared_scoring import _shares
from softgrpo.serving import scoring
from softgrpo.serving.recommended import RequestWriter
from softgrpo.serving.scoring import PartOfUsers, ScoringSummary
from softgrpo.serving.shares import Share, is_whole, join_shares, share_bytes
from tests.softgrpo.serving.test_scoring import files, finished
from tests.softgrpo.stages.tiny_run import RECALLERS, TinyRun

__all__ = ["files"]
JOB = "a job"


def write_shares(run: TinyRun, options: ScoreOptions, suffix: str, count: int, folder: Path) -> dict[Share, Path]:
    """Scores each share as a worker does, and writes its file."""
    paths = {}
    folder.mkdir()
    served, asked = open_asked(finished(run), options, folder)
    parts = asked.count(run.config.limits)
    for number in range(parts):
        part = PartOfUsers.read(served, asked.part(number, parts))
        for index in range(count):
            share = Share(number, parts, index, count)
            paths[share] = folder / share.name
            paths[share].write_bytes(share_bytes(served, part, asked.k, share, suffix, JOB))
    return paths


@pytest.mark.parametrize(("suffix", "count"), [(".parquet", 3), (".json", 2), (".parquet", 40)])
def test_shares_make_the_file_of_one_process(
    suffix: str,
    count: int,
    run: TinyRun,
    files: tuple[Path, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A language model answers, whose numbers depend on who is in its batch; two parts, users without lists, some with notes."""
    monkeypatch.setattr(scoring, "ROWS", 700)
    monkeypatch.setattr(scoring, "BATCH", 5)
    options = ScoreOptions(files[0], files[1], method="grpo_multi", users=[*(f"u{n}" for n in range(30)), "absent"])
    whole = score_run(finished(run), options, tmp_path / f"whole{suffix}")
    paths = write_shares(run, options, suffix, count, tmp_path / "shares")
    assert len({share.part for share in paths}) > 1
    summary, joined = ScoringSummary(), tmp_path / f"joined{suffix}"
    with RequestWriter(joined, RECALLERS) as writer:
        join_shares(paths, writer, summary)
    assert joined.read_bytes() == whole.path.read_bytes()
    history = open_asked(finished(run), options, tmp_path)[1].history
    assert notes_of(finished(run), options, summary, history, None) == whole.notes and whole.notes
    assert (summary.users, summary.items) == (whole.users, whole.items)


def test_a_damaged_share_is_not_taken_for_whole(
    run: TinyRun, files: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    paths = write_shares(run, ScoreOptions(*files, method="static"), ".parquet", 2, tmp_path / "shares")
    path = paths[Share(0, 1, 0, 2)]
    good = path.read_bytes()
    assert is_whole(path, JOB) and not is_whole(path, "another job") and not is_whole(tmp_path / "none", JOB)
    for cut in (0, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        assert not is_whole(path, JOB)
    place = pq.ParquetFile(paths[Share(0, 1, 1, 2)]).metadata.num_row_groups
    assert place == 0  # one batch in all: the second share is empty, and whole
    path.write_bytes(
        good[:300] + bytes([good[300] ^ 0xFF]) + good[301:]
    )  # inside a page, which the end of the file does not tell
    assert is_whole(path, JOB)
    refused = pytest.raises(StoreError, match=r"shares.* whole when they are put together.*STORE-048")
    with refused, RequestWriter(tmp_path / "joined.parquet", RECALLERS) as writer:
        join_shares(paths, writer, ScoringSummary())
    assert not (tmp_path / "joined.parquet").exists()


def job_of(run: TinyRun, options: ScoreOptions) -> ScoreJob:
    """Returns what a worker of the same machine gets to know."""
    digests = {name: digest_file(path) for name, path in files_of(finished(run), options).items()}
    return ScoreJob("abc", Path(), options, ".parquet", code_here(), digests)


@pytest.fixture
def opened(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Records which runs a worker opens; all are the small one."""
    names: list[str] = []

    def open_to_score(run_id: str, output: Path, options: ScoreOptions) -> FinishedRun:
        names.append(run_id)
        return finished(run)

    monkeypatch.setattr("softgrpo.flows.results.share_worker.open_to_score", open_to_score)
    yield names
    forget()


def test_a_worker_opens_a_run_once(
    run: TinyRun,
    files: tuple[Path, dict[str, Path]],
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "ROWS", 700)
    options = ScoreOptions(*files, method="static")
    expected = write_shares(run, options, ".parquet", 2, tmp_path / "shares")
    job = job_of(run, options)
    for share, path in expected.items():
        there = tmp_path / "there.parquet"
        there.write_bytes(score_share(job, share))
        assert pq.read_table(there).equals(pq.read_table(path)) and is_whole(there, job.name)
    assert opened == ["abc"]
    score_share(replace(job, options=replace(options, k=3)), Share(0, 1, 0, 1))
    assert opened == ["abc"] * 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "code",
            r"On the worker .*Version .*Workers have the code and the libraries of the command, version old.*STORE-049",
        ),
        ("missing", r"On the worker .*There is no file '.*h\.csv'.*by the same paths.*DATA-056"),
        ("other", r"On the worker .*'.*h\.csv' \(histories\) holds something else than .*DATA-055"),
    ],
)
def test_a_worker_with_other_code_or_files_is_refused(
    wrong: str, said: str, run: TinyRun, files: tuple[Path, dict[str, Path]], opened: list[str]
) -> None:
    job = job_of(run, ScoreOptions(*files, method="static"))
    if wrong == "code":
        job = replace(job, code="old")
    elif wrong == "missing":
        files[0].unlink()
    else:
        files[0].write_text(files[0].read_text().replace("u1,", "u2,", 1))
    with pytest.raises(SoftGRPOError, match=said):
        score_share(job, Share(0, 1, 0, 1))


def test_a_job_has_a_name_of_its_own(run: TinyRun, files: tuple[Path, dict[str, Path]]) -> None:
    """Whatever changes the file changes the name; where the files lie does not."""
    job = job_of(run, ScoreOptions(*files, method="static"))
    options = job.options
    others = [
        replace(job, run_id="other"),
        replace(job, code="other"),
        replace(job, suffix=".json"),
        replace(job, digests={}),
        *(replace(job, options=replace(options, **{name: value})) for name, value in CHANGES.items()),
    ]
    assert len({each.name for each in (job, *others)}) == 1 + len(others)
    assert replace(job, output=Path("elsewhere"), options=replace(options, history=Path("x"))).name == job.name


CHANGES: dict[str, Any] = {"users": ["u1"], "k": 3, "method": "Left", "shard": Shard(0, 2)}


def test_shares_are_some_for_each_worker_or_those_of_the_last_attempt(tmp_path: Path) -> None:
    assert len(_shares(1, 1_000_000, 2, tmp_path)) == 8
    assert _shares(3, 1_000_000, 2, tmp_path) == [Share(part, 3, index, 3) for part in range(3) for index in range(3)]
    assert len(_shares(1, 3000, 2, tmp_path)) == 3  # no more than there may be batches
    (tmp_path / Share(0, 2, 3, 5).name).touch()
    assert len(_shares(1, 1_000_000, 2, tmp_path)) == 2 * 5
